"""IC107: ``if "conv" or "header" in name``, ``isinstance(m, A) or B``: a filter of init code that is always true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Substitute
from initcheck.rules.base import finding
from initcheck.rules.source_index import text_of, written

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC107"
_SUSPECT = (
    re.compile(r"""'\s+or\s+["'\w]"""),
    re.compile(r""""\s+or\s+["'\w]"""),
    re.compile(r"isinstance\(.*\)\s*or\s+[\w.]+\s*(?::|or\b)"),
)
"""Of which one matches in every file that has such a guard."""

_OPERANDS = (
    re.compile(r"'\s+or\b"),
    re.compile(r'"\s+or\b'),
    re.compile(r"""or\s+["']"""),
    re.compile(r"isinstance\(.*\)\s*or\b"),
    re.compile(r"or\s+isinstance\("),
)
"""Of which one matches in such a guard."""

_INITIALISING = re.compile(r"(?:[^\W_]_|init\w*)[\s\\)]*\(", re.I)
"""The call of something that, by its name, writes a tensor in place."""


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Guards of init code in which a bare string, or a class of layers, is an operand of ``or``."""
    if not any(pattern.search(source.text) for pattern in _SUSPECT):
        return
    for node, _ in source.survey.near(*((operand, _INITIALISING) for operand in _OPERANDS)).ifs:
        found = list(_check(source, node))
        if found and _initialises(node):
            yield from found


def _initialises(guard: ast.If) -> bool:
    """Whether either branch calls something that, by its name, writes a tensor in place."""
    for statement in (*guard.body, *guard.orelse):
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if (name.endswith("_") and not name.endswith("__")) or "init" in name.lower():
                    return True
    return False


def _check(source: SourceFile, guard: ast.If) -> Iterator[Finding]:
    test = guard.test
    if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)):
        return
    yield from _bare_class(source, guard, test)
    bare = [v for v in test.values if isinstance(v, ast.Constant) and isinstance(v.value, str) and v.value]
    compared = [v for v in test.values if isinstance(v, ast.Compare) and len(v.comparators) == 1]
    if not bare or not compared:
        return
    is_sure = all(isinstance(each.ops[0], (ast.In, ast.Eq)) for each in compared)  # "not in" may be meant for "and"
    yield _finding(source, guard, f"string {bare[0].value!r}", _mended(source, test, bare, compared[-1]), is_sure)


def _finding(source: SourceFile, guard: ast.If, operand: str, meant: str, is_sure: bool) -> Finding:
    where = source.location(guard.test)
    return finding(
        CODE,
        f"`{text_of(guard.test)}` is always true: the {operand} alone is an operand of `or`, "
        "so this branch takes every layer" + (" and the branches after it take none" if guard.orelse else ""),
        where,
        suggestion=f"if {meant}:",
        fix=Fix("ask each operand", (Substitute(where, meant),), safe=True) if is_sure else None,
    )


def _bare_class(source: SourceFile, guard: ast.If, test: ast.BoolOp) -> Iterator[Finding]:
    """``isinstance(m, nn.Linear) or nn.Conv2d``."""
    checks = [v for v in test.values if isinstance(v, ast.Call) and ast.unparse(v.func) == "isinstance"]
    bare = [
        v
        for v in test.values
        if isinstance(v, (ast.Name, ast.Attribute)) and _is_layer_class(source.imports.resolve(v) or "")
    ]
    if not checks or not bare or len(checks[0].args) != 2:
        return
    variable, first = (written(source, argument) for argument in checks[0].args)
    kinds = ", ".join([first.strip("()"), *(written(source, kind) for kind in bare)])
    meant = f"isinstance({variable}, ({kinds}))"
    yield _finding(source, guard, f"class {ast.unparse(bare[0])}", meant, len(test.values) == 1 + len(bare))


def _is_layer_class(name: str) -> bool:
    return name.startswith("torch.nn.") and name.rpartition(".")[2][:1].isupper()


def _mended(source: SourceFile, test: ast.BoolOp, bare: list[ast.Constant], compare: ast.Compare) -> str:
    """Every bare string compared as the last comparison does it."""
    parts = []
    for value in test.values:
        if value in bare and isinstance(compare.ops[0], (ast.In, ast.NotIn)):
            word = "in" if isinstance(compare.ops[0], ast.In) else "not in"
            parts.append(f"{written(source, value)} {word} {written(source, compare.comparators[0])}")
        elif value in bare:
            sign = "==" if isinstance(compare.ops[0], ast.Eq) else "!="
            parts.append(f"{written(source, compare.left)} {sign} {written(source, value)}")
        else:
            parts.append(written(source, value))
    return " or ".join(parts)
