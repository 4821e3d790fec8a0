"""IC111: a function that initialises weights, and that nothing in the project calls."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes, times_named

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC111"

_NAME = re.compile(
    r"_?(?:init|initiali[sz]e)_?(?:all_)?(?:weights?|params?|parameters|layers?|model|net)_?|weights?_init\w*", re.I
)
_MOST_FILES = 3000
_MARKS = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "README.md")
_SKIPPED = frozenset({".git", "__pycache__", "node_modules", "site-packages", "venv", ".venv", "build", "dist"})
_READ = (".py", ".ipynb", ".yaml", ".yml", ".toml", ".json", ".cfg", ".md", ".rst", ".sh")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Functions and methods by name, whose name occurs nowhere else in the project, nor in a text of it."""
    writes = init_writes(source)
    for function, owner in _candidates(source) if writes else ():
        if not any(function.lineno <= w.node.lineno <= (function.end_lineno or 0) for w in writes):
            continue
        if _named_here(source, function, owner) or named_elsewhere(source, function.name, owner):
            continue
        column = source.location(function).column
        what = f"{owner.name}.{function.name}" if owner is not None else function.name
        yield finding(
            CODE,
            f"`{what}` initialises weights and is called nowhere in the project: the layers keep torch's default",
            Location(source.path, function.lineno, column, function.lineno, column + len("def ") + len(function.name)),
            parameter=what,
            suggestion=f"self.{function.name}() at the end of __init__, or model.apply({function.name})",
        )


def _candidates(source: SourceFile) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    """Functions at the top, and methods of classes whose bases are ``nn.Module`` alone (no framework calls a hook)."""
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) and _NAME.fullmatch(node.name) and not node.decorator_list:
            yield node, None
        elif (
            isinstance(node, ast.ClassDef) and node.bases and not node.decorator_list
        ):  # a registry's framework calls it
            plain = all(source.imports.resolve(base) == "torch.nn.Module" for base in node.bases)
            for item in node.body if plain else ():
                if isinstance(item, ast.FunctionDef) and _NAME.fullmatch(item.name) and not item.decorator_list:
                    yield item, node


def _named_here(source: SourceFile, function: ast.FunctionDef, owner: ast.ClassDef | None) -> bool:
    """Whether the file's code has the name, but for its definitions, for what those do with it (they run only if
    something else calls one of them), and for ``self.name`` in another class with a method of that name.

    A docstring or a comment calls nothing; a text that is the name alone, or part of an option's, may.
    """
    name = function.name
    word = re.compile(rf"{name}\b")
    near = source.survey.near(word)
    defined = [node for node, _ in near.functions if node.name == name]
    if times_named(source, name) == len(defined):
        return False
    others = [node for _, node in source.classes if owner is not None and node is not owner and _has_method(node, name)]
    aside = [(node.lineno, node.end_lineno or 0) for node in defined]
    theirs = [(node.lineno, node.end_lineno or 0) for node in others]
    for node in itertools.chain(near.references, source.survey.nodes_near(word)):  # it is among the former as a rule
        if isinstance(node, ast.Attribute):
            said, own = node.attr == name, isinstance(node.value, ast.Name) and node.value.id == "self"
        elif isinstance(node, (ast.Name, ast.Constant)):
            said, own = (node.id if isinstance(node, ast.Name) else node.value) == name, False
        elif isinstance(node, (ast.alias, ast.keyword, ast.arg)):
            said, own = name in ((node.name, node.asname) if isinstance(node, ast.alias) else (node.arg,)), False
        else:
            continue
        if said and not _within(node.lineno, aside) and not (own and _within(node.lineno, theirs)):
            return True
    return False


def _within(line: int, spans: list[tuple[int, int]]) -> bool:
    return any(first <= line <= last for first, last in spans)


def _has_method(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(item, ast.FunctionDef) and item.name == name for item in node.body)


def named_elsewhere(source: SourceFile, name: str, owner: ast.ClassDef | None = None) -> bool:
    """Whether another file of the project has the word; so it may, if there is none and the file is no script.

    A file with a function of its own of that name does not count for the method of a class ``owner`` that it does not
    derive from, unless it reads the name off something that is not ``self``.
    """
    root = _root(source.path)
    texts = _project_words(root)
    if texts is None:
        return bool(root) or not _is_script(source)
    mine = os.path.realpath(source.path)
    kind = owner.name if owner is not None else ""
    return any(
        name in words and not (kind and f"self.{name}" in words and kind not in words)
        for other, words in texts.items()
        if other != mine
    )


def _is_script(source: SourceFile) -> bool:
    """Whether the file builds one of its own classes at the top level, or has a main block."""
    own = {node.name for node in source.tree.body if isinstance(node, ast.ClassDef)}
    for node in source.tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return True
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in own:
            return True
    return False


def _root(path: str) -> str:
    """The folder of the project that a file belongs to; empty if nothing says where it begins."""
    start = Path(os.path.realpath(path)).parent
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in _MARKS):
            return str(folder)
    return ""


@functools.lru_cache(maxsize=4)
def _project_words(root: str) -> dict[str, frozenset[str]] | None:
    """The words that look like a function of init, by file; None without a root, or with too many files to read."""
    if not root:
        return None
    found: dict[str, frozenset[str]] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in _SKIPPED]
        for file in files:
            if not file.endswith(_READ):
                continue
            if len(found) >= _MOST_FILES:
                return None
            path = os.path.join(folder, file)
            try:
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            found[os.path.realpath(path)] = _words(text)
    return found if len(found) > 1 else None


_WORD = re.compile(r"""((?<!\w)def |(?<!\w)self\.|\.|["']|(?<!\w))(\w*(?:[iI]nit|reset_)\w*)""")


def _words(text: str) -> frozenset[str]:
    """The words of a file that look like a function of init.

    ``self.name`` beside ``name`` says that the file defines it, and otherwise reads it off ``self`` or has it
    bare; then the classes that the file derives from are there, too.
    """
    found: dict[str, set[str]] = {}
    for before, word in _WORD.findall(text):
        found.setdefault(word, set()).add(before)
    own = {f"self.{word}" for word, before in found.items() if "def " in before and not before & {".", '"', "'"}}
    if not own:
        return frozenset(found)
    bases = re.findall(r"^[ \t]*class \w+\(([^)]*)\)", text, re.MULTILINE)
    return frozenset((*found, *own, *re.findall(r"[A-Z]\w+", " ".join(bases))))
