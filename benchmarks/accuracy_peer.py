"""Run another library's analysis on the zoo's models, in that library's environment: what it says of each, as JSON.

Called by ``accuracy.py --peers``, which puts this package's root on PYTHONPATH; not meant to be called by hand.

    PYTHON benchmarks/accuracy_peer.py METHOD BATCH FOLDER [NAME ...]

AnyInit re-draws all weights and predicts E[x²] of each layer that it scaled; its weights are saved to FOLDER. Layers
that it does not hold itself to (those that feed a norm layer) are left out.
unit-scaling runs a forward and a backward pass and writes the std of each tensor beside the line of code that made it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import measured
import torch
import zoo


def anyinit(net: torch.nn.Module, x: torch.Tensor, file: Path) -> dict[str, Any]:
    import anyinit

    report = anyinit.initialize(net, "analytic", x, seed=0)
    torch.save(net.state_dict(), file)
    verdict = "healthy"
    try:
        report.assert_healthy()
    except AssertionError as error:
        verdict = str(error).partition(": ")[2]
    pairs = [
        (layer.name, math.sqrt(layer.predicted), math.sqrt(layer.measured))
        for layer in report.layers
        if layer.constrained and layer.predicted and layer.measured and layer.predicted > 0 and layer.measured > 0
    ]
    return {"pairs": pairs, "verdict": verdict}


def unit_scaling(net: torch.nn.Module, x: torch.Tensor, file: Path) -> dict[str, Any]:
    from unit_scaling.utils import analyse_module

    given = x.clone().requires_grad_() if x.is_floating_point() else x
    with torch.no_grad():
        out = net(x)
    code = analyse_module(net, given, torch.randn_like(out), syntax_highlight=False)
    lines = code.splitlines()
    return {"forward": sum("(-> " in line for line in lines), "gradient": sum("<- " in line for line in lines)}


METHODS = {"AnyInit": anyinit, "unit-scaling": unit_scaling}


def main() -> None:
    method, batch, folder, *names = sys.argv[1:]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        models = zoo.models(names)
    for model in models:
        said: dict[str, Any] = {"model": model.name}
        try:
            net, args, kwargs = measured.build(model, 0, int(batch), "white")
            if len(args) != 1 or kwargs:
                raise TypeError("takes one tensor, the model more or by keyword")
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                said |= METHODS[method](net, args[0], Path(folder) / f"{model.name.replace(':', '-')}.pt")
            said["seconds"] = time.process_time() - started
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
