"""The plugin under the real flake8: by its entry point where the package is installed, else as a local plugin."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from initcheck.plugins.flake8 import Initcheck

ROOT = Path(__file__).parent.parent.parent
BAD = "from torch import nn\n\n\ndef init(ä, b):\n    ü = nn.init.xavier_uniform(ä); nn.init.normal(b)\n    return ü\n"


def flake8(folder: Path, *options: str) -> tuple[int, list[str]]:
    pytest.importorskip("flake8")
    local = f"[flake8:local-plugins]\nextension =\n    IC = initcheck.plugins.flake8:Initcheck\npaths = {ROOT}\n"
    installed = any(entry.name == "IC" for entry in entry_points(group="flake8.extension"))
    (folder / ".flake8").write_text("[flake8]\nignore = E702\n" + ("" if installed else local))
    done = subprocess.run(
        [sys.executable, "-m", "flake8", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_findings_have_their_true_places(tmp_path, encoding):
    (tmp_path / "net.py").write_text(BAD, encoding=encoding)
    code, lines = flake8(tmp_path)
    assert code == 1
    assert [line.split(" ")[:2] for line in lines] == [["./net.py:5:9:", "IC801"], ["./net.py:5:36:", "IC801"]]


def test_select_and_noqa_are_honoured(tmp_path):
    (tmp_path / "net.py").write_text(BAD)
    assert flake8(tmp_path, "--extend-ignore=IC8") == (0, [])
    (tmp_path / "net.py").write_text(BAD.replace("(b)\n", "(b)  # noqa: IC801\n"))
    assert flake8(tmp_path) == (0, [])
    (tmp_path / "net.py").write_text("# initcheck: noqa\n" + BAD)
    assert flake8(tmp_path) == (0, [])


def test_it_does_not_import_torch():
    code = (
        "import sys, ast; from initcheck.plugins.flake8 import Initcheck; text = 'from torch import nn\\n';"
        "list(Initcheck(ast.parse(text), 'a.py', [text]).run()); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_crashing_rule_is_not_silent(monkeypatch):
    monkeypatch.setattr("initcheck.rules.registry.check_source", lambda source: ([], ["rule IC801 crashed"]))
    with pytest.raises(RuntimeError, match="IC801 crashed"):
        list(Initcheck(ast.parse("x"), "a.py", ["x"]).run())
