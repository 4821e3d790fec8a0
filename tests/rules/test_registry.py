"""Rules are found by name, run on their own, and a crash of one is a defect that silences no other."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from initcheck.rules import registry
from initcheck.source.file import SourceFile


def test_source_rules_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from initcheck.rules import registry\n"
        "from initcheck.source.file import SourceFile\n"
        "source = SourceFile.parse('m.py', 'import torch.nn as nn\\nnn.init.normal(w)\\n')\n"
        "assert [f.code for f in registry.check_source(source)[0]] == ['IC801']\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_rule_module_states_the_code_of_its_name() -> None:
    for rule in registry.rules():
        assert rule.__name__.rpartition(".")[2][:5].upper() == rule.CODE


def test_a_crash_is_a_defect_and_the_other_rules_still_report(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("broken")

    def check_source(source: SourceFile) -> None:
        raise ZeroDivisionError("oops")

    broken.CODE = "IC999"  # type: ignore[attr-defined]
    broken.check_source = check_source  # type: ignore[attr-defined]
    everything = (broken, *registry.rules())
    monkeypatch.setattr(registry, "rules", lambda: everything)
    source = SourceFile.parse("m.py", "import torch.nn as nn\nnn.init.normal(w)\n")
    findings, defects = registry.check_source(source)
    assert [f.code for f in findings] == ["IC801"]
    assert len(defects) == 1
    first, _, trace = defects[0].partition("\n")
    assert first == "rule IC999 crashed on m.py: ZeroDivisionError: oops"
    assert "Traceback" in trace
