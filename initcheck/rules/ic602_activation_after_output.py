"""IC602: a ReLU on the scores of a classifier: half of them start at zero, with no gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import calls, op_of, operand, source_through
from initcheck.rules.writes import class_location

if TYPE_CHECKING:
    import torch.fx

CODE = "IC602"

_RELU = frozenset({"relu", "relu6"})
_PASSING = frozenset(["view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "dropout", "float", "to"])
_SCORES = frozenset({"softmax", "log_softmax", "cross_entropy"})
_LOSS = re.compile(
    r"\b(?:cross_entropy|CrossEntropyLoss|nll_loss|NLLLoss|binary_cross_entropy_with_logits|BCEWithLogitsLoss)\b"
)


def check_model(context: ModelContext) -> Iterator[Finding]:
    """A ReLU between a linear layer and what takes its outputs for scores: a softmax, or the model's end and a loss."""
    for node in calls(context.trace.graph, _RELU):
        linear = source_through(operand(node), _PASSING)
        if linear is None or op_of(linear) not in ("linear", "addmm") or not _is_parametrised(linear):
            continue
        ends = _ends(node)
        if ends is None or not ends:
            continue
        scores = ends & _SCORES
        if scores or (context.source is not None and _LOSS.search(context.source.text)):
            yield _finding(context, node, linear, scores)


def _is_parametrised(node: torch.fx.Node) -> bool:
    return any(n.op == "get_attr" and "parameter" in n.meta for n in node.all_input_nodes)


def _ends(node: torch.fx.Node) -> set[str] | None:
    """What reads a node in the end, through passing ops: ops of scores, or ``output``; None if anything else does."""
    found: set[str] = set()
    queue = list(node.users)
    while queue:
        user = queue.pop()
        if user.op == "output":
            found.add("output")
        elif op_of(user) in _SCORES:
            found.add(op_of(user))
        elif op_of(user) in _PASSING:
            queue.extend(user.users)
        else:
            return None
    return found


def _finding(context: ModelContext, node: torch.fx.Node, linear: torch.fx.Node, scores: set[str]) -> Finding:
    weight = next(n for n in linear.all_input_nodes if n.op == "get_attr" and "parameter" in n.meta)
    name = str(weight.meta["parameter"])
    module = context.trace.modules.get(str(node.meta.get("module", "")))
    where = class_location(context)
    if module is not None and module.type_name.startswith("torch.nn") and module.built_at:
        where = module.built_at[0].location
    elif node.meta.get("stack"):
        where = node.meta["stack"][0].location
    what = f"a {scores.pop()}" if scores else "the loss"
    return finding(
        CODE,
        f"{op_of(node)} stands between the last layer (`{name}`) and {what}: scores below zero, half of them at "
        "the start, "
        "are cut to zero and get no gradient",
        where,
        model=context.trace.model,
        parameter=name,
        evidence=("for z ~ N(0, s^2): P(z < 0) = 1/2, and d relu(z)/dz = 0 there",),
        suggestion="leave the last layer's output as it is: the loss takes logits",
    )
