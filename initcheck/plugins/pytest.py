"""For test suites: an assertion that a model starts healthy.

::

    from initcheck.plugins.pytest import assert_healthy

    def test_initialisation():
        assert_healthy(Net(), torch.randn(8, 3, 32, 32))
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from initcheck.findings import Finding, Severity

if TYPE_CHECKING:
    from torch import nn

    from initcheck.results import Report


def assert_healthy(
    model: nn.Module,
    example_inputs: Any,
    *,
    mode: Literal["train", "eval"] = "train",
    fail_on: Literal["error", "warning", "info"] = "warning",
    ignore: Collection[str] = (),
) -> Report:
    """Assert that ``initcheck.analyze`` finds nothing to object to; the report, for more assertions.

    Args:
        model: the model, with its weights as they are; nothing of it is changed.
        example_inputs: as for ``initcheck.analyze``.
        mode: likewise.
        fail_on: the least severity that fails.
        ignore: codes, or prefixes of codes, that do not count.

    Raises:
        AssertionError: names each finding, with its evidence.
        RuntimeError: a rule of initcheck crashed: nothing can be said.
    """
    __tracebackhide__ = True
    from initcheck.library import analyze

    report = analyze(model, example_inputs, mode)
    for note in report.notes:
        if note.startswith("defect in initcheck"):
            raise RuntimeError(note)
    least = Severity.parse(fail_on)
    found = [f for f in report.findings if f.severity >= least and not f.code.startswith(tuple(ignore))]
    if found:
        text = "\n".join(map(_described, found))
        raise AssertionError(f"the initialisation of {report.model} has {len(found)} finding(s):\n{text}")
    return report


def _described(finding: Finding) -> str:
    lines = [f"{finding.location}: {finding.code} [{finding.name}] {finding.severity.label}: {finding.message}"]
    lines += [f"    {evidence.text}" for evidence in finding.evidence]
    return "\n".join([*lines, f"    help: {finding.suggestion}"] if finding.suggestion else lines)
