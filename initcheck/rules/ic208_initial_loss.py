"""IC208: logits so large at the start that the first loss is far from log(classes)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Severity
from initcheck.rules.attribution import init_is_lost
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import moments_of, op_of
from initcheck.rules.edits import rewrite
from initcheck.rules.scale import cause_of, structure_of
from initcheck.rules.writes import call_location, final_write, layer_location, suggestions_for

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse

CODE = "IC208"

_LARGE = 4.0
"""Std of the logits: the first loss is then log(classes) + 8, and of two logits one has all the probability."""

_CLASSES = 8
_LOSSES = ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss", "log_softmax", "LogSoftmax")


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for the head whose outputs are class scores, as the graph or the file tells."""
    verdict = cause_of(context).consequence
    if verdict.severity is not None and verdict.severity >= Severity.WARNING:
        return  # the head is not the cause
    for use in structure_of(context).uses:
        if use.feeds != "output" or use.op != "linear" or len(use.record.shape) != 2:
            continue
        classes = use.record.shape[0]
        if classes < _CLASSES or not _is_classifier(use, context):
            continue
        moments = moments_of(use.node, context.signal)
        # what differs between the classes of one sample: v_c, and the sample's own part
        if moments is not None and moments.std >= _LARGE:
            if final_write(use.record) is None and init_is_lost(context):
                return
            yield _finding(context, use, classes, moments.std)
            return


def _is_classifier(use: WeightUse, context: ModelContext) -> bool:
    """Whether the outputs are scores of classes: a vocabulary, a softmax behind them, a loss of classes in the file."""
    embeds = any(op_of(node) == "embedding" for node in context.trace.graph.nodes)
    if embeds and use.record.shape[0] >= 100:
        return True
    if any(op_of(user) in ("softmax", "log_softmax", "cross_entropy") for user in use.node.users):
        return True
    return context.source is not None and any(loss in context.source.text for loss in _LOSSES)


def _finding(context: ModelContext, use: WeightUse, classes: int, std: float) -> Finding:
    record = use.record
    tied = any("embed" in name.lower() or name.endswith("wte.weight") for name in (record.name, *record.aliases))
    write = final_write(record)
    where = call_location(write, context) if write is not None else layer_location(record, context)
    loss = math.log(classes) + std**2 / 2
    why = (
        f"the embedding of std {record.distribution.std:.2g} is tied to the head: {use.fans.fan_in:g} features of "
        "it sum up"
        if tied or record.aliases
        else f"fan_in {use.fans.fan_in:g} x std {record.distribution.std:.2g}^2 = "
        f"{use.fans.fan_in * record.distribution.std**2:.2g} times the features' second moment"
    )
    suggestions = suggestions_for([record], context)
    fix = None
    if write is not None and suggestions:
        from initcheck.findings import Fix

        edit = rewrite(where, suggestions[0], context)
        fix = Fix("draw the head smaller", (edit,)) if edit is not None else None
    return finding(
        CODE,
        f"the {classes} logits of `{record.name}` start with a std of {std:.2g}: the first loss is about "
        f"log({classes}) + {std:.2g}^2/2 = {loss:.3g} in place of {math.log(classes):.2g}",
        where,
        model=context.trace.model,
        parameter=record.name,
        evidence=(
            why,
            "E[loss] = log(C) + s^2/2 for Gaussian logits of std s and a label that does not depend on them",
        ),
        suggestion="nn.init.normal_(embedding.weight, std=0.02)"
        if tied or record.aliases
        else "nn.init.zeros_(head.weight), or normal_ at std 0.01",
        fix=fix,
        std=std,
    )
