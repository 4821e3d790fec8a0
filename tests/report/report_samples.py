"""A run as the engine would hand it over, made by hand: every kind of finding, a measurement, fixes, an error."""

from __future__ import annotations

from dataclasses import replace

from initcheck.findings import Evidence, Finding, Fix, InitStatement, InsertInit, Location, RewriteCall, Severity
from initcheck.results import FileResult, FixSummary, LayerRow, MeasuredRow, Measurement, Report, RunResult

PATH = "models/deep.py"
SOURCE = """\
import torch
from torch import nn


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(50)])

\tdef größe(self): nn.init.xavier_uniform(self.w)
"""
SOURCES = {PATH: SOURCE}


def at(line: int, column: int, end_line: int = 0, end_column: int = 0) -> Location:
    return Location(PATH, line, column, end_line, end_column)


CLASS = at(5, 1, 5, 11)

VANISHING = Finding(
    code="IC202",
    name="forward-vanishing",
    severity=Severity.ERROR,
    message="the signal of Deep shrinks to 3e-58 of its size over 50 layers",
    location=at(8, 39, 8, 70),
    model="Deep",
    parameter="layers.0.weight",
    evidence=(
        Evidence("σ² = n·σ_w²/2 = 100·0.01²/2 = 0.005 per layer"),
        Evidence("the class is made here", CLASS),
    ),
    suggestion='nn.init.kaiming_normal_(module.weight, nonlinearity="relu")',
    fix=Fix(
        "initialise every nn.Linear with kaiming_normal_",
        (
            InsertInit(
                CLASS,
                "Deep",
                (InitStatement("module.weight", "kaiming_normal_", (("nonlinearity", '"relu"'),)),),
                ("nn.Linear",),
            ),
        ),
    ),
    data={"ratio": float("nan"), "layers": 50},
)
DEPRECATED = Finding(
    code="IC801",
    name="deprecated-init-name",
    severity=Severity.WARNING,
    message="nn.init.xavier_uniform is deprecated",
    location=at(10, 19, 10, 41),
    fix=Fix("rename it to xavier_uniform_", (RewriteCall(at(10, 19, 10, 41), "xavier_uniform_"),), safe=True),
)
PARTLY = Finding(
    code="IC003",
    name="partly-analysed",
    severity=Severity.INFO,
    message="model Deep was analysed in part",
    location=CLASS,
    model="Deep",
)

LAYERS = (
    LayerRow("layers.0", "Linear", 0.1, 0.0, 2e-7, output_shape=(2, 100), weight_std=0.01),
    LayerRow("layers.1", "Linear", 0.01, 0.0, float("inf"), location=at(8, 39)),
    LayerRow("head", "Linear", 0.001, float("nan"), 1.0),
    LayerRow("odd", "Odd", None, None, None),
)
MEASUREMENT = Measurement(
    device="cpu",
    seeds=3,
    rows=(
        MeasuredRow("layers.0.attention.query_projection", "Linear", 0.1, 0.11, 2e-7, 2.1e-7, 1.0, 0.98, 1.0, 1.02),
        MeasuredRow("head", "Linear", 0.001, None, None, 1.0, 1.0, 1.01, 1.0, 1.0),
    ),
    changed=("layers.0.weight", "head.weight"),
    seconds=0.5,
)
DEEP = Report(
    model="Deep",
    findings=(VANISHING, PARTLY),
    layers=LAYERS,
    coverage=0.997,
    unknown_ops={"erfcx": 3, "bincount": 1},
    rung="recorder",
    inputs="float32[2,100]",
    built_by="Deep()",
    location=CLASS,
    parameters=52,
    parameter_elements=500_100,
)
FINE = replace(
    DEEP, model="Fine", findings=(), coverage=1.0, unknown_ops={}, layers=LAYERS[:1], location=at(1, 1, 1, 6)
)


def run(*, errors: tuple[str, ...] = (), measured: bool = False, fixes: FixSummary | None = None) -> RunResult:
    deep = replace(DEEP, measured=MEASUREMENT) if measured else DEEP
    files = (FileResult(PATH, (deep, FINE), (DEPRECATED,), fixes=fixes), FileResult("models/empty.py"))
    return RunResult(files, errors, 4.25)


CLEAN = RunResult((FileResult(PATH, (FINE,)),), seconds=0.5)
