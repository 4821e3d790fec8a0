"""Init by class name: ``m.__class__.__name__.find("Conv") != -1``, and names that no class has by a slip of the pen."""

from __future__ import annotations

import ast
import difflib
import re
from typing import TYPE_CHECKING

from initcheck.source.torch_names import MODULES

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile


def class_name_filter(test: ast.expr) -> ast.Constant | None:
    """The literal of ``classname.find("Conv") != -1`` and ``"Conv" in m.__class__.__name__``; None: another test."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], ast.In) and _is_text(left):
        return left if _is_class_name(right) else None  # type: ignore[return-value]
    if (
        isinstance(test.ops[0], (ast.NotEq, ast.GtE, ast.Gt))
        and isinstance(left, ast.Call)
        and isinstance(left.func, ast.Attribute)
        and left.func.attr == "find"
        and _is_class_name(left.func.value)
        and len(left.args) == 1
        and _is_text(left.args[0])
    ):
        return left.args[0]  # type: ignore[return-value]
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_class_name(expression: ast.expr) -> bool:
    text = ast.unparse(expression)
    return "__name__" in text or text.lower() in ("classname", "class_name")


def misspelt(source: SourceFile, word: str) -> str:
    """What of a class name of torch a word is meant to be, if two neighbouring letters have changed places, or one is
    another, missing or too many; empty if the word may be part of a class name as it stands."""
    if len(word) < 4 or any(word in name for name in MODULES):
        return ""
    others = re.findall(rf"\b\w*{re.escape(word)}\w*\b", source.text)
    if len(others) > 1:  # a class, an import or a second filter of that name
        return ""
    near = {part for name in MODULES for part in _parts(name) if _is_slip(word, part)}
    return difflib.get_close_matches(word, sorted(near), n=1, cutoff=0.0)[0] if near else ""


def _parts(name: str) -> list[str]:
    """``Conv``, ``ConvTranspose``, ``ConvTranspose2d``, ``Transpose``... of ``ConvTranspose2d``."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|\d\w*", name)
    return ["".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]


def _is_slip(word: str, meant: str) -> bool:
    """Damerau's distance 1; what is only longer at its end may be a plural or a class of the user's."""
    if word == meant or abs(len(word) - len(meant)) > 1 or word[0] != meant[0]:
        return False
    at = next((i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), min(len(word), len(meant)))
    swapped = word[at : at + 2][::-1] == meant[at : at + 2] and word[at + 2 :] == meant[at + 2 :]
    other = word[at + 1 :] == meant[at + 1 :] and len(word) == len(meant)
    missing = word[at:] == meant[at + 1 :]
    extra = word[at + 1 :] == meant[at:] and at < len(meant)
    return swapped or other or missing or extra
