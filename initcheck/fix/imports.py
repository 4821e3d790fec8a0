"""Change a module's imports: add a statement, add a name to a ``from`` import, replace one that is no longer used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import libcst as cst

_MODULE = "torch.nn.init"
_SPACE = cst.SimpleWhitespace(" ")


class ImportChanger(cst.CSTTransformer):
    """Adds names beside (or in place of) names imported from ``torch.nn.init``.

    Args:
        extended: bound name of an old import to the names that are imported beside it.
        unused: bound names that nothing uses any more.
        renamed: bound names (``import ... as name``) to the function that they are to stand for.
    """

    def __init__(self, extended: Mapping[str, set[str]], unused: set[str], renamed: Mapping[str, str]) -> None:
        super().__init__()
        self._renamed = renamed
        self._extended = extended
        self._unused = unused

    @property
    def has_work(self) -> bool:
        """Whether any import changes."""
        return bool(self._extended or self._unused or self._renamed)

    def leave_ImportFrom(  # noqa: D102
        self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom
    ) -> cst.ImportFrom:
        if original_node.module is None or isinstance(original_node.names, cst.ImportStar):
            return updated_node
        if original_node.relative or _dotted(original_node.module) != _MODULE:
            return updated_node
        aliases: list[cst.ImportAlias] = list(updated_node.names)  # type: ignore[arg-type]
        aliases = [
            alias.with_changes(name=cst.Name(self._renamed[_bound(alias)])) if _bound(alias) in self._renamed else alias
            for alias in aliases
        ]
        present = {_bound(alias) for alias in aliases}
        wanted: list[str] = []
        for alias in aliases:
            wanted += sorted(self._extended.get(_bound(alias), ()))
        missing = [name for name in dict.fromkeys(wanted) if name not in present]
        idle = [index for index, alias in enumerate(aliases) if _bound(alias) in self._unused]
        for index in list(idle):  # in place, where an unused name makes room
            if missing:
                aliases[index] = aliases[index].with_changes(name=cst.Name(missing.pop(0)), asname=None)
                idle.remove(index)
        for name in missing:
            aliases = _appended(updated_node, aliases, name)
        if idle and len(idle) < len(aliases):
            aliases = _removed(aliases, idle)
        return updated_node.with_changes(names=aliases)


def _bound(alias: cst.ImportAlias) -> str:
    name = alias.asname.name if alias.asname is not None else alias.name
    return name.value if isinstance(name, cst.Name) else ""


def _appended(node: cst.ImportFrom, aliases: Sequence[cst.ImportAlias], name: str) -> list[cst.ImportAlias]:
    last = aliases[-1]
    if len(aliases) > 1 and isinstance(aliases[-2].comma, cst.Comma):
        separator = aliases[-2].comma
    elif node.lpar is not None and isinstance(node.lpar.whitespace_after, cst.ParenthesizedWhitespace):
        separator = cst.Comma(whitespace_after=node.lpar.whitespace_after)
    else:
        separator = cst.Comma(whitespace_after=_SPACE)
    new = cst.ImportAlias(cst.Name(name), comma=last.comma)
    return [*aliases[:-1], last.with_changes(comma=separator), new]


def _removed(aliases: Sequence[cst.ImportAlias], idle: Sequence[int]) -> list[cst.ImportAlias]:
    kept = [alias for index, alias in enumerate(aliases) if index not in idle]
    kept[-1] = kept[-1].with_changes(comma=aliases[-1].comma)
    return kept


def with_statements(module: cst.Module, statements: Sequence[str]) -> cst.Module:
    """``module`` with import statements added after its last top-level import of torch, else of anything."""
    if not statements:
        return module
    body = list(module.body)
    imports = [index for index, item in enumerate(body) if _is_import(item)]
    of_torch = [index for index in imports if _imports_torch(body[index])]
    of_future = [index for index in imports if _imports_future(body[index])]
    lines = [cst.ensure_type(cst.parse_statement(statement), cst.SimpleStatementLine) for statement in statements]
    if of_torch or imports[len(of_future) :]:
        at = (of_torch or imports)[-1] + 1
    else:
        at = (of_future[-1] + 1) if of_future else int(_has_docstring(module))
        if at < len(body) and not getattr(body[at], "leading_lines", ()):
            blank = 2 if isinstance(body[at], (cst.ClassDef, cst.FunctionDef)) else 1
            body[at] = body[at].with_changes(leading_lines=[cst.EmptyLine(indent=False)] * blank)
        if at > 0:
            lines[0] = lines[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    return module.with_changes(body=[*body[:at], *lines, *body[at:]])


def _is_import(item: cst.CSTNode) -> bool:
    return isinstance(item, cst.SimpleStatementLine) and all(
        isinstance(part, (cst.Import, cst.ImportFrom)) for part in item.body
    )


def _roots(item: cst.CSTNode) -> set[str]:
    roots = set()
    for part in item.body if isinstance(item, cst.SimpleStatementLine) else ():
        if isinstance(part, cst.ImportFrom) and part.module is not None and not part.relative:
            roots.add(_dotted(part.module).partition(".")[0])
        elif isinstance(part, cst.Import):
            roots |= {_dotted(alias.name).partition(".")[0] for alias in part.names}
    return roots


def _imports_torch(item: cst.CSTNode) -> bool:
    return "torch" in _roots(item)


def _imports_future(item: cst.CSTNode) -> bool:
    return "__future__" in _roots(item)


def _has_docstring(module: cst.Module) -> bool:
    return module.get_docstring() is not None


def _dotted(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""
