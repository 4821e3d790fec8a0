"""What a rule module offers and what it is given.

A rule is one page in ``rules/`` and one module in this folder, ``ic701_zero_weight_symmetry.py``, that defines
``CODE`` and one or both of

- ``check_source(source: SourceFile) -> Iterator[Finding]``: reads one file; must not import torch;
- ``check_model(context: ModelContext) -> Iterator[Finding]``: reads the init log, the graph and the signal.

Module level imports of a rule must not pull in torch (``if TYPE_CHECKING`` for the types, local imports for the rest).
``finding`` fills in name and default severity from the rule's page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from initcheck.catalogue import rule_page
from initcheck.findings import Evidence, Finding, Fix, Location, Severity

if TYPE_CHECKING:
    from initcheck.init.suggest import Suggestion
    from initcheck.signal.result import Signal
    from initcheck.source.file import SourceFile
    from initcheck.tracing.trace import Trace


@dataclass(slots=True)
class ModelContext:
    """One traced model and its predicted signal.

    ``source``: the file that is being checked, None for a live model. ``suggestions``: what
    ``initcheck.init.suggest`` would write for each parameter (computed once, lazily, by ``suggested``).
    ``fallback``: a location to use when nothing more exact is known (the model's class, or the call of ``analyze``).
    """

    trace: Trace
    signal: Signal
    fallback: Location
    source: SourceFile | None = None
    memo: dict[str, object] = field(default_factory=dict, repr=False)
    """What rules share: an analysis that several of them read is made once."""
    _suggestions: list[Suggestion] | None = field(default=None, repr=False)

    def suggested(self) -> list[Suggestion]:
        """The suggested initialisation of this model, solved once."""
        if self._suggestions is None:
            from initcheck.init.suggest import suggest

            self._suggestions = suggest(self.trace, self.signal)
        return self._suggestions


def finding(
    code: str,
    message: str,
    location: Location,
    *,
    severity: Severity | None = None,
    model: str = "",
    parameter: str = "",
    evidence: tuple[Evidence | str, ...] = (),
    suggestion: str = "",
    fix: Fix | None = None,
    **data: Any,
) -> Finding:
    """A finding of rule ``code``; severity defaults to the page's."""
    page = rule_page(code)
    return Finding(
        code=code,
        name=page.name,
        severity=page.severity if severity is None else severity,
        message=message,
        location=location,
        model=model,
        parameter=parameter,
        evidence=tuple(Evidence(e) if isinstance(e, str) else e for e in evidence),
        suggestion=suggestion,
        fix=fix,
        data=data,
    )
