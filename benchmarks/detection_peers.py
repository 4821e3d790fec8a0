"""What other libraries say of the live mutants, run in their environment.

Called by ``detection.py --peers PYTHON``; not meant to be called by hand.

    PYTHON benchmarks/detection_peers.py CACHE [PART OF A NAME]

A peer has found a mistake where it complains of the spoiled model and not of the good one:

- AnyInit draws all weights anew and can then be asked ``assert_healthy()`` (it has no audit of weights as they are);
- torch-audit: an audit with the batch, of errors and warnings;
- torchdiag: ``check_dead_neurons`` and, behind a backward pass, ``check_gradients``: vanishing, exploding, no gradient.
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import live_mutants  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402
from mutants import MUTATIONS  # noqa: E402
from torch import nn  # noqa: E402

from initcheck.tracing.outputs import primary_output  # noqa: E402


def anyinit(model: nn.Module, args: Any, kwargs: Any) -> set[str]:
    import anyinit

    report = anyinit.initialize(model, "analytic", args[0] if args else None)
    try:
        report.assert_healthy()
    except AssertionError as error:
        return {str(error).partition(":")[0]}
    return set()


def torch_audit(model: nn.Module, args: Any, kwargs: Any) -> set[str]:
    import torch_audit

    result = torch_audit.audit(model, batch=kwargs or args, suppress_internal_errors=True)
    return {f"{f.rule_id} {f.module_path}" for f in result.findings if f.severity.name != "INFO"}


def torchdiag(model: nn.Module, args: Any, kwargs: Any) -> set[str]:
    import torchdiag

    model.zero_grad()
    output = primary_output(model(*args, **kwargs))
    torch.manual_seed(0)
    (output * torch.randn_like(output)).sum().backward()
    gradients = torchdiag.check_gradients(model)
    said = {f"{row['status']} {name}" for name, row in gradients.items() if row["status"] != "OK"}
    if not kwargs and len(args) == 1:
        dead = torchdiag.check_dead_neurons(model, args[0])
        said |= {f"dead {name}" for name, row in dead.items() if row["dead_pct"] > DEAD}
    return said


DEAD = 20
"""Per cent of a layer's units from which torchdiag warns."""

PEERS: dict[str, Callable[[nn.Module, Any, Any], set[str]]] = {
    "AnyInit": anyinit,
    "torch-audit": torch_audit,
    "torchdiag": torchdiag,
}


def complaints(peer: str, model: nn.Module, args: Any, kwargs: Any) -> tuple[set[str], str]:
    """What a peer says of a copy of the model, or why it says nothing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return PEERS[peer](copy.deepcopy(model), args, kwargs), ""
    except Exception as error:
        return set(), f"{type(error).__name__}: {error}"[:120]


def main() -> None:
    cache, only = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    path = cache / "peers.jsonl"
    effects, known = record.keyed(cache / "effects.jsonl"), record.keyed(path)
    mutations = {m.name: m for m in MUTATIONS}
    for good in live_mutants.good_models():
        keys = [k for k, row in effects.items() if k[1] == good.name and row["layers"] and k not in known]
        if not keys or only not in good.name:
            continue
        model, args, kwargs = live_mutants.built(good)
        before = {peer: complaints(peer, model, args, kwargs)[0] for peer in PEERS}
        for key in keys:
            spoiled, _ = live_mutants.spoiled(model, good.name, mutations[key[0]], key[2])
            row: dict[str, Any] = {}
            for peer in PEERS:
                said, problem = complaints(peer, spoiled, args, kwargs)
                new = sorted(said - before[peer])
                row[peer] = {"found": bool(new), "said": new[:3], "problem": problem}
            record.append_keyed(path, key, row)


if __name__ == "__main__":
    main()
