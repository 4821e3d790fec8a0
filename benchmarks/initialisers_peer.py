"""Run another library's initialiser on the benchmark's nets, in that library's environment, and save the weights.

Called by ``initialisers.py --peers PYTHON``; not meant to be called by hand.

    PYTHON benchmarks/initialisers_peer.py METHOD SET SEED FOLDER [NAME]
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests" / "init"), str(HERE)]


def initialise(method: str, model: nn.Module, x: torch.Tensor) -> None:
    if method == "AnyInit":
        import anyinit

        anyinit.initialize(model, "analytic", x)
    else:
        from lsuv import lsuv_with_singlebatch

        lsuv_with_singlebatch(model, x, verbose=False)


def main() -> None:
    method, kind, seed, folder, *only = sys.argv[1:]
    if kind == "held out":
        from held_out_nets import HELD_OUT

        nets = HELD_OUT
    else:
        from nets import UNHEALTHY

        nets = UNHEALTHY
    torch.set_num_threads(1)
    for index, (name, (make, shape)) in enumerate(nets.items()):
        if only and only[0] not in name:
            continue
        torch.manual_seed(int(seed))
        model, x = make(), torch.randn(shape)
        said = {"net": name, "seconds": 0.0, "error": ""}
        started = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                initialise(method, model, x)
            said["seconds"] = time.perf_counter() - started
            torch.save(model.state_dict(), Path(folder) / f"{method}-{seed}-{index}.pt")
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
