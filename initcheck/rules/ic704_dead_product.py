"""IC704: both factors of a product start at zero, so that neither ever gets a gradient (LoRA with A and B zero)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, RewriteCall
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.source_index import InitWrite, init_writes, layer_attributes, layer_type, literal
from initcheck.rules.symmetry import DeadProduct, symmetry_of
from initcheck.rules.writes import call_location, call_node, counted, final_write, layer_location

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC704"

_KAIMING = (("a", "math.sqrt(5)"),)
"""What LoRA draws its A with: the default of ``nn.Linear``."""


# -- from the source: y = self.B(self.A(x)), zeroed from two places --------------------------------------------------

_TWO_IN_A_ROW = re.compile(r"self\.\w+\s*\(\s*self\.\w+\s*\(")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """A class that zeroes one of two layers in a row, and code outside of it that zeroes the other of its objects."""
    writes = init_writes(source)
    outside = [w for w in writes if _is_zero(w) and _path(w)[0] not in ("", "self")]
    if not outside or _TWO_IN_A_ROW.search(source.text) is None:
        return
    classes = {node.name: node for _, node in source.classes}
    for name, node in classes.items():
        for first, second in _rows(source, node):
            final = _final(writes, node)
            for write in outside:
                variable, layer = _path(write)
                if layer not in (first, second) or not _is_made(write, variable, name):
                    continue
                other = second if layer == first else first
                own = final.get(other)
                if own is not None and _is_zero(own):
                    yield _source_finding(source, write, own, name, layer, other)


def _is_zero(write: InitWrite) -> bool:
    if write.function in ("zeros_", "zero_"):
        return True
    value = write.arguments.get("val") or (
        write.node.args[0] if write.function == "fill_" and write.node.args else None
    )
    return write.function in ("constant_", "fill_") and literal(value) == 0.0


def _path(write: InitWrite) -> tuple[str, str]:
    """``("module", "lora_A")`` of ``module.lora_A.weight``; empty for any other target."""
    target = write.target
    if (
        isinstance(target, ast.Attribute)
        and target.attr == "weight"
        and isinstance(target.value, ast.Attribute)
        and isinstance(target.value.value, ast.Name)
    ):
        return target.value.value.id, target.value.attr
    return "", ""


def _rows(source: SourceFile, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(A, B) of ``self.B(self.A(x))`` in a class, both linear layers without a bias."""
    layers = layer_attributes(source, node)
    bare = {
        attribute
        for attribute, call in layers.items()
        if layer_type(source, call) == "Linear"
        and any(k.arg == "bias" and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords)
    }
    seen: set[tuple[str, str]] = set()
    for item, place in source.survey.near(_TWO_IN_A_ROW).calls if len(bare) > 1 else ():
        if node not in place.classes:
            continue
        outer = _own_layer(item)
        inner = _own_layer(item.args[0]) if len(item.args) == 1 else ""
        if outer in bare and inner in bare and outer != inner and (inner, outer) not in seen:
            seen.add((inner, outer))
            yield inner, outer


def _own_layer(node: ast.AST) -> str:
    """``lora_B`` of the call ``self.lora_B(...)``."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
        return function.attr
    return ""


def _final(writes: tuple[InitWrite, ...], node: ast.ClassDef) -> dict[str, InitWrite]:
    """The last write of each layer's weight in the constructor of a class."""
    found: dict[str, InitWrite] = {}
    for write in writes:
        names = {f.name for f in write.functions if isinstance(f, ast.FunctionDef)}
        if node in write.classes and names & {"__init__", "reset_parameters"} and _path(write)[0] == "self":
            found[_path(write)[1]] = write
    return found


def _is_made(write: InitWrite, variable: str, name: str) -> bool:
    """Whether the function around the write makes the variable by a call of the class."""
    return bool(write.functions) and any(
        isinstance(item, ast.Assign)
        and isinstance(item.value, ast.Call)
        and ast.unparse(item.value.func).rpartition(".")[2] == name
        and any(isinstance(t, ast.Name) and t.id == variable for t in item.targets)
        for item in ast.walk(write.functions[-1])
    )


def _source_finding(source: SourceFile, write: InitWrite, own: InitWrite, name: str, layer: str, other: str) -> Finding:
    where = source.location(write.node)
    return finding(
        CODE,
        f"`{write.key}` is set to zero, and {name} starts `{other}` at zero (line {own.node.lineno}): it computes "
        f"{other}({layer}(x)) or the reverse, so the gradient of each is a multiple of the other, and both stay zero",
        where,
        parameter=f"{name}.{layer}",
        evidence=("y = B A x: dL/dA = B^T (dL/dy) x^T = 0 because B = 0; dL/dB = (dL/dy) (A x)^T = 0 because A = 0",),
        suggestion=f"remove this line: with `{other}` at zero the product already is",
        fix=Fix("draw the first factor", (RewriteCall(where, "kaiming_uniform_", _KAIMING),)),
    )


# -- from the model --------------------------------------------------------------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each place that zeroes the first factor."""
    said = {f.location.line for f in check_source(context.source)} if context.source is not None else set()
    groups: dict[Location, list[DeadProduct]] = defaultdict(list)
    for product in symmetry_of(context).products:
        write = final_write(product.first)
        where = call_location(write, context) if write is not None else layer_location(product.first, context)
        if product not in groups[where]:
            groups[where].append(product)
    for where, products in groups.items():
        if where.line in said:
            continue
        first = products[0]
        also = f" ({counted(len(products), 'such product')})" if len(products) > 1 else ""
        yield finding(
            CODE,
            f"`{first.first.name}` and `{first.second.name}` are multiplied and both start at zero{also}: the gradient "
            "of each is a multiple of the other, so both stay zero",
            where,
            model=context.trace.model,
            parameter=first.first.name,
            evidence=(
                f"y = B A x: dL/dA = B^T (dL/dy) x^T = 0 because B ({first.second.name}) = 0",
                f"dL/dB = (dL/dy) (A x)^T = 0 because A ({first.first.name}) = 0",
            ),
            suggestion=f"start one of the two at random, e.g. nn.init.normal_({first.first.name}, std=0.02)",
            products=len(products),
            fix=_fix(context, where, products),
        )


def _fix(context: ModelContext, where: Location, products: list[DeadProduct]) -> Fix | None:
    """Draw the first factor, where its call writes no second factor as well."""
    source = context.source
    if source is None or where.path != source.path or not where.end_line:
        return None
    seconds = [final_write(product.second) for product in products]
    if any(write is not None and call_location(write, context) == where for write in seconds):
        return None
    if any(len(product.first.shape) < 2 for product in products):
        return None
    write = final_write(products[0].first)
    if (
        write is not None
        and call_node(where, write.function, source) is None
        and not write.function.startswith("zeros")
    ):
        return None
    return Fix("draw the first factor", (RewriteCall(where, "kaiming_uniform_", _KAIMING),))
