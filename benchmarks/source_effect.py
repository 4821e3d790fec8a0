"""What a slip in a source file does, measured on the model that the file builds; runs in a process of its own.

Reads one line of JSON (see ``source_mutants.py``) and prints one line for each mutant: its key, ``harmful``, ``why``.

How the harm is measured, by the mutation's ``effect``:

- ``arrival``: some weight does not have the distribution that the good file gives it (its std is off by a fourth, its
  mean by a fourth of the std, or it holds memory that nobody wrote), or the file's init raises;
- ``copy``: the weights are not those that come of the same draws where a copy is the tensor itself;
- ``overwritten``: nothing is left of the line that was put in; ``loaded``: weights that were loaded are gone;
- ``copies``: two weights are equal that differ in the good model; ``norms``: a norm layer's output is off by a fourth;
- ``units``, ``signal``: as for live models (``harm.py``).
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import math
import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import zoo
from harm import Harm, signal_harm, unit_harm
from torch import nn

from initcheck.audit import audit
from initcheck.findings import Location
from initcheck.tracing.ladder import trace

NOTICEABLE = 1.25
LOADED = 7.0

_KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def loaded_names(path: str, prelude: str) -> dict[str, Any]:
    """The file's imports and definitions, without the script around them."""
    module = types.ModuleType(f"spoiled_{abs(hash(path))}")
    sys.modules[module.__name__] = module
    exec(prelude, module.__dict__)
    tree = ast.parse(Path(path).read_text())
    for statement in tree.body:
        if isinstance(statement, _KEPT) or (isinstance(statement, ast.Assign) and _is_constant(statement.value)):
            exec(compile(ast.Module([statement], []), path, "exec"), module.__dict__)
    return module.__dict__


def _is_constant(value: ast.expr) -> bool:
    return not any(isinstance(n, ast.Call) for n in ast.walk(value))


def built(job: dict[str, Any], path: str) -> tuple[nn.Module, Any, Any]:
    """The model that a file builds, and inputs for it."""
    names = loaded_names(path, job["prelude"])
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = eval(job["build"], names)
    torch.manual_seed(1)
    given = eval(job["inputs"], {"torch": torch})
    return (model.train(), (), given) if isinstance(given, dict) else (model.train(), given, {})


def weights(model: nn.Module, args: Any, kwargs: Any) -> dict[str, torch.Tensor]:
    """The weights that count: after one forward pass, as the layers see them."""
    with contextlib.suppress(Exception):  # unwritten memory can stop a forward pass; the weights are there all the same
        model(*args, **kwargs)
    found = {n: p.detach() for n, p in model.named_parameters() if "original" not in n and not n.endswith(("_g", "_v"))}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor):
            found[f"{name}.weight" if name else "weight"] = weight.detach()
    return found


def differing(good: dict[str, torch.Tensor], spoiled: dict[str, torch.Tensor]) -> dict[str, str]:
    """Weights of another distribution, and in what."""
    found = {}
    for name, value in spoiled.items():
        if name not in good or not value.is_floating_point() or value.numel() == 0:
            continue
        x, y = good[name].double(), value.double()
        if bool(torch.isnan(y).any()) and not bool(torch.isnan(x).any()):
            found[name] = "memory that nobody wrote"
            continue
        std, other = float(x.std(correction=0)), float(y.std(correction=0))
        ratio = max(std, other) / min(std, other) if min(std, other) > 0 else math.inf if max(std, other) > 0 else 1.0
        shift = abs(float(x.mean() - y.mean()))
        if x.numel() >= 16 and ratio > NOTICEABLE:
            found[name] = f"std {other:.2g}, not {std:.2g}"
        elif shift > (NOTICEABLE - 1) * max(std, other) + 3 * std / math.sqrt(x.numel()) and shift > 1e-6:
            found[name] = f"mean {float(y.mean()):.2g}, not {float(x.mean()):.2g}"
    return found


def lines_run(job: dict[str, Any], path: str) -> set[int]:
    """Lines of the file's functions that run while its model is built."""
    seen: set[int] = set()

    def watch(frame: types.FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != path:
            return None
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # not the module's and the classes' own lines
            seen.add(frame.f_lineno)
        return watch

    sys.settrace(watch)
    try:
        with contextlib.suppress(Exception):
            built(job, path)
    finally:
        sys.settrace(None)
    return seen


def effect(kind: str, job: dict[str, Any], path: str) -> Harm:
    """Harm of one mutant."""
    good, args, kwargs = built(job, job["good"])
    before = weights(good, args, kwargs)
    try:
        if kind == "loaded":
            return _loaded(job, path)
        if kind == "copy":
            return _copy(job, path)
        if kind == "overwritten":
            return _overwritten(job, path)
        model, args, kwargs = built(job, path)
    except Exception as error:
        return Harm(True, f"raises {type(error).__name__}: {error}"[:120])
    if kind in ("units", "signal"):
        changed = differing(before, weights(model, args, kwargs))
        model, args, kwargs = built(job, path)
        layers = sorted({name.rpartition(".")[0] for name in changed if name.endswith(".weight")})
        if not changed:
            return Harm(False, "no weight of this model is concerned")
        if kind == "units":
            return unit_harm(model, args, kwargs, layers) if layers else Harm(False, "no layer's weight")
        traced = trace(model, args, kwargs)
        return signal_harm(model, args, kwargs, traced, audit(traced, Location(path, 1)).signal)
    if kind == "norms":
        return _norms(job, path)
    after = weights(model, args, kwargs)
    if kind == "copies":
        return _copies(before, after)
    changed = differing(before, after)
    first = next(iter(changed), "")
    return Harm(bool(changed), f"{len(changed)} weights: {first} {changed[first]}" if changed else "same distributions")


def _loaded(job: dict[str, Any], path: str) -> Harm:
    def load(module: nn.Module, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(LOADED)

    kept = nn.Module.load_state_dict, torch.load
    nn.Module.load_state_dict, torch.load = load, lambda *_, **__: {}  # type: ignore[assignment,method-assign]
    try:
        model = built(job, path)[0]
    finally:
        nn.Module.load_state_dict, torch.load = kept  # type: ignore[method-assign]
    lost = [name for name, value in model.named_parameters() if not bool((value == LOADED).all())]
    return Harm(bool(lost), f"{len(lost)} loaded weights are gone")


def _copy(job: dict[str, Any], path: str) -> Harm:
    """Against the same draws where a copy is the tensor itself."""
    kept = torch.Tensor.clone, torch.Tensor.double
    lost = built(job, path)[0]
    torch.Tensor.clone = torch.Tensor.double = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    try:
        arrived = built(job, path)[0]
    finally:
        torch.Tensor.clone, torch.Tensor.double = kept  # type: ignore[method-assign]
    pairs = zip(lost.named_parameters(), arrived.parameters(), strict=True)
    different = [name for (name, one), other in pairs if not torch.equal(one, other)]
    return Harm(bool(different), f"{len(different)} weights are not written: {(different or [''])[0]}")


def _overwritten(job: dict[str, Any], path: str) -> Harm:
    """With a constant in place of what the line draws, to see where it arrives."""
    text = Path(path).read_text()
    constant = re.sub(
        r"torch\.nn\.init\.orthogonal_\((self\.\w+\.weight)\)", rf"torch.nn.init.constant_(\1, {LOADED})", text
    )
    marked = Path(path).with_suffix(".marked.py")
    marked.write_text(constant)
    left = [n for n, value in built(job, str(marked))[0].named_parameters() if bool((value == LOADED).all())]
    return Harm(not left, f"left in {left[0]}" if left else "nothing of it is left")


def _norms(job: dict[str, Any], path: str) -> Harm:
    def scales(file: str) -> dict[str, float]:
        model, args, kwargs = built(job, file)
        seen: dict[str, float] = {}

        def watch(name: str) -> Any:
            def hook(_: nn.Module, __: Any, out: torch.Tensor) -> None:
                seen.setdefault(name, float(out.std()))

            return hook

        for name, module in model.named_modules():
            if "Norm" in type(module).__name__:
                module.register_forward_hook(watch(name))
        model(*args, **kwargs)
        return seen

    good, spoiled = scales(job["good"]), scales(path)
    worst = max(
        (max(good[n] / spoiled[n], spoiled[n] / good[n]) for n in good if good[n] and spoiled.get(n)), default=1.0
    )
    return Harm(worst > NOTICEABLE, f"a norm layer's output is off by {worst:.2f}")


def _copies(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> Harm:
    big = [n for n, value in after.items() if value.dim() >= 2 and value.numel() > 16]
    for i, one in enumerate(big):
        for other in big[i + 1 :]:
            same = after[one].shape == after[other].shape and torch.equal(after[one], after[other])
            if same and one in before and other in before and not torch.equal(before[one], before[other]):
                return Harm(True, f"{one} equals {other}")
    return Harm(False, "no two weights are equal")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills unwritten memory with NaN
    job = json.loads(sys.stdin.read())
    sys.path[:0] = job["paths"]
    zoo.declare_missing_ops()
    sys.modules.setdefault("gym", MagicMock())
    for mutant in job["mutants"]:
        try:
            if not lines_run(job, mutant["path"]) & set(mutant["lines"]):
                raise LookupError("the measured model does not run the line")
            harm = effect(mutant["effect"], job, mutant["path"])
            said = {"harmful": harm.harmful, "why": harm.why, "problem": ""}
        except Exception as error:
            said = {"harmful": False, "why": "", "problem": f"not measured: {type(error).__name__}: {error}"[:200]}
        print(json.dumps({"key": mutant["key"], **said}), flush=True)


if __name__ == "__main__":
    main()
