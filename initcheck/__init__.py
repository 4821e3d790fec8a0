"""Static analysis of the weight initialisation of PyTorch models.

``analyze`` audits a live model, ``measure`` confirms the prediction with a real pass, ``apply`` writes the suggested
initialisation. Importing this package does not import torch; using these functions does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initcheck.init.apply import apply as apply
    from initcheck.library import analyze as analyze
    from initcheck.measuring.run import measure as measure

from initcheck.findings import Finding as Finding
from initcheck.findings import Severity as Severity
from initcheck.results import LayerRow as LayerRow
from initcheck.results import Report as Report

__version__ = "0.1.0"
__all__ = ["Finding", "LayerRow", "Report", "Severity", "__version__", "analyze", "apply", "measure"]

_LAZY = {
    "analyze": "initcheck.library",
    "measure": "initcheck.measuring.run",
    "apply": "initcheck.init.apply",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
