"""IC109: layers that start as copies of one another and are used together."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, InsertInit
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.items import attribute_path, slice_of
from initcheck.rules.redraw import redraw
from initcheck.rules.writes import counted, listed

if TYPE_CHECKING:
    import torch.fx

    from initcheck.tracing.trace import ParameterRecord

CODE = "IC109"

_TWIN = re.compile(r"target|ema|teacher|momentum|shadow|frozen|reference|_ref\b|old|anchor|key_encoder|encoder_k", re.I)
"""Copies that are meant to start equal: target networks, moving averages, frozen references."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each family of clones: an original, and the copies of it that the same forward pass uses."""
    used = _used_parameters(context.trace.graph)
    families: dict[str, list[ParameterRecord]] = defaultdict(list)
    for record in context.trace.parameters.values():
        original = _origin(record, context)
        if original is not None and record.requires_grad and _drawn(record) and not _TWIN.search(record.name):
            families[original].append(record)
    groups: dict[tuple[str, ...], list[tuple[str, list[ParameterRecord]]]] = defaultdict(list)
    for original, clones in families.items():
        clones = [clone for clone in clones if clone.name in used]
        source = context.trace.parameters[original]
        if not clones or not source.requires_grad or original not in used:
            continue
        members = (_stem(original, clones[0].name), *(_stem(clone.name, original) for clone in clones))
        groups[members].append((original, clones))
    for members, cases in groups.items():
        yield _finding(context, members, cases)


def _origin(record: ParameterRecord, context: ModelContext) -> str | None:
    """The first of a chain of copies."""
    name, seen = record.clone_of, {record.name}
    while name and name not in seen:
        parent = context.trace.parameters.get(name)
        if parent is None:
            return None
        if not parent.clone_of:
            return name
        seen.add(name)
        name = parent.clone_of
    return None


def _drawn(record: ParameterRecord) -> bool:
    """Whether it is a matrix of random elements: norm weights are equal everywhere, and equal biases harm nobody."""
    return len(record.shape) >= 2 and record.distribution.std > 0 and record.distribution.kind != "constant"


def _used_parameters(graph: torch.fx.Graph) -> set[str]:
    return {str(node.meta["parameter"]) for node in graph.nodes if node.op == "get_attr" and "parameter" in node.meta}


def _stem(name: str, other: str) -> str:
    """The module path up to the part in which the two names differ: ``layers.1`` of ``layers.1.linear.weight``."""
    mine, theirs = name.split("."), other.split(".")
    differ = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), len(mine) - 1)
    return ".".join(mine[: differ + 1])


def _finding(
    context: ModelContext, members: tuple[str, ...], cases: list[tuple[str, list[ParameterRecord]]]
) -> Finding:
    original, clones = cases[0]
    record = context.trace.parameters[original]
    encoder = _transformer_of(members[0], context)
    made = f" ({encoder} copies the layer it is given)" if encoder else ""
    tensors = sum(len(copies) for _, copies in cases)
    return finding(
        CODE,
        f"{counted(len(members), 'module')} start with the same weights{made}: {listed(list(members))}",
        record.location or clones[0].location or context.fallback,
        model=context.trace.model,
        parameter=original,
        evidence=(
            f"{counted(tensors, 'tensor')} equal to the corresponding one of {members[0]}, "
            f"e.g. {clones[0].name} = {original}",
        ),
        suggestion=(
            "draw each copy anew, e.g. for p in self.parameters(): if p.dim() > 1: nn.init.xavier_uniform_(p)"
            if encoder
            else "make each layer by its own constructor call, or call reset_parameters() on every copy"
        ),
        copies=len(members) - 1,
        fix=_fix(context, members, cases),
    )


# -- the copies drawn anew, each tensor as the original was -----------------------------------------------------------

_MOST_STATEMENTS = 8


def _fix(context: ModelContext, members: tuple[str, ...], cases: list[tuple[str, list[ParameterRecord]]]) -> Fix | None:
    """At the end of the constructor that holds all the members, where it stands in the checked file."""
    owner, class_name = _owner(context, members)
    source = context.source
    where = source.class_location(class_name) if source is not None and class_name else None
    if where is None:
        return None
    inside = f"{owner}." if owner else ""
    items = _slice(owner, [member.removeprefix(inside) for member in members], context)
    targets: list[tuple[str, str | None]] = []
    for original, clones in cases:
        if items:
            targets.append((original, attribute_path(original.removeprefix(f"{members[0]}."), "module")))
        else:
            targets += [(original, attribute_path(clone.name.removeprefix(inside), "self")) for clone in clones]
    records = context.trace.parameters
    statements = [redraw(records[original], path) for original, path in targets if path is not None]
    found = tuple(statement for statement in statements if statement is not None)
    if len(found) < len(targets) or len(found) > _MOST_STATEMENTS:
        return None
    return Fix("draw each copy anew", (InsertInit(where, class_name, found, over=items),))


def _owner(context: ModelContext, members: tuple[str, ...]) -> tuple[str, str]:
    """The innermost module around all members whose class stands in the checked file: (path, class name)."""
    steps = zip(*(member.split(".")[:-1] for member in members), strict=False)
    parts = [step[0] for step in itertools.takewhile(lambda step: len(set(step)) == 1, steps)]
    for end in range(len(parts), -1, -1):
        path = ".".join(parts[:end])
        module = context.trace.modules.get(path)
        name = module.type_name.rpartition(".")[2] if module is not None else ""
        if module is not None and not module.type_name.startswith("torch.nn."):
            known = context.source is not None and context.source.find_class(name) is not None
            return (path, name) if known else ("", "")
    return "", ""


def _slice(owner: str, members: list[str], context: ModelContext) -> str:
    """``self.layers[1:]`` for the copies of ``layers.0`` in ``layers.1`` and ``layers.2``; empty without a list."""
    lists = {member.rpartition(".")[0] for member in members}
    indices = [member.rpartition(".")[2] for member in members[1:]]
    if len(lists) > 1 or lists == {""} or not all(index.isdigit() for index in indices):
        return ""
    return slice_of(lists.pop(), map(int, indices), context, owner)


def _transformer_of(member: str, context: ModelContext) -> str:
    """``TransformerEncoder``, if that torch class holds the clones."""
    parts = member.split(".")
    for end in range(len(parts), -1, -1):
        module = context.trace.modules.get(".".join(parts[:end]))
        if module is not None:
            name = module.type_name.rpartition(".")[2]
            if name in ("TransformerEncoder", "TransformerDecoder"):
                return name
    return ""
