"""Every reproduction runs, in its quick form, and prints its table."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
REPRODUCTIONS = sorted(path.name for path in EXAMPLES.glob("reproduce_*.py"))


def test_there_are_all_of_them():
    assert len(REPRODUCTIONS) >= 8


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_a_reproduction_prints_its_table(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    out = capsys.readouterr().out
    assert "expected" in out.splitlines()[0]
    assert len(out.splitlines()) >= 3
