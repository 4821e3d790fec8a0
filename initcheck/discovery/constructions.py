"""Constructions found in a file: ``net = ResNet(BasicBlock, [2, 2, 2, 2])`` and what it takes to evaluate just that.

A construction is evaluated with the statements that its arguments need (a backward slice through the scope it stands
in) and the statements after it that initialise what it made (``net.apply(init_weights)``). Conditions around it are not
evaluated, loops give their first element, and a value that cannot be had (a data set, an environment) is made up by its
name where the field has a convention for it.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from initcheck.discovery.conventions import UNKNOWN, by_name
from initcheck.discovery.denied import denied_call
from initcheck.discovery.environments import is_environment
from initcheck.discovery.loader import Execution, describe
from initcheck.discovery.placeholders import NotAvailableError, Placeholder
from initcheck.discovery.slicing import Statement, is_main_guard, names_used, slice_for, statement
from initcheck.discovery.synthesis import Context, parameters, value_for

_INIT_CALL = re.compile(r"init|reset_parameters|xavier|kaiming|orthogonal|glorot|he_|weights?_normal", re.IGNORECASE)
_INIT_METHODS = frozenset({"apply", "reset_parameters"})
_DTYPE_METHODS = frozenset({"double", "half", "bfloat16"})
_MOVES = frozenset({"to", "cuda", "cpu", "train", "eval", "float", "requires_grad_", "share_memory"})
_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "compile", "convert_sync_batchnorm", "script"})
_SIZE = re.compile(
    r"^n[_a-z]|num|dim|size|len|channels?$|class(es)?$|tok|vocab|hidden|seed|device|width|height|heads?$|layers?$|depth"
)
_NOT_INIT = re.compile(
    r"load_state_dict|torch\.load|optim|scheduler|checkpoint|wandb|summary|init_process_group|amp\.init|deepspeed"
)


@dataclass(frozen=True)
class Scope:
    """Where code stands: the module level, a ``__main__`` block or a function."""

    kind: str
    body: Sequence[ast.stmt]
    function: ast.FunctionDef | None = None
    owner: str = ""

    @property
    def label(self) -> str:
        """``train`` for a function; how the place is called in a report."""
        return {"module": "", "main": "__main__"}.get(self.kind, self.function.name if self.function else "")


def scopes(tree: ast.Module) -> Iterator[Scope]:
    """All scopes of a file, in the order in which constructions in them are believed."""
    yield Scope("module", [node for node in tree.body if not is_main_guard(node)])
    for node in tree.body:
        if is_main_guard(node):
            assert isinstance(node, ast.If)
            yield Scope("main", node.body)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, (ast.If, ast.Try)) and not is_main_guard(node):
            functions += [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
    for function in sorted(functions, key=lambda f: _rank(f.name)):
        yield Scope("function", function.body, function)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield Scope("function", method.body, method, node.name)


def _rank(name: str) -> int:
    return 0 if re.match(r"test|main|demo|example", name) else 1


@dataclass(frozen=True)
class Construction:
    """One place where a model is made. ``before``: statements of its scope that run before it, outermost first."""

    scope: Scope
    call: ast.Call
    expression: ast.expr
    target: ast.expr | None
    before: tuple[ast.stmt, ...]
    inits: tuple[ast.stmt, ...]

    @property
    def line(self) -> int:
        """Where it stands."""
        return self.call.lineno

    @property
    def runs_init(self) -> bool:
        """Whether the user's own initialisation belongs to it."""
        return bool(self.inits) or self.expression is not self.call

    @property
    def text(self) -> str:
        """``ResNet(BasicBlock, [2, 2, 2, 2]) (line 40, in test)``."""
        source = " ".join(ast.unparse(self.expression).split())
        source = source if len(source) <= 80 else source[:77] + "..."
        init = "".join(f"; {' '.join(ast.unparse(s).split())}" for s in self.inits)
        init = init if len(init) <= 80 else init[:77] + "..."
        place = f"line {self.line}" + (f", in {self.scope.label}" if self.scope.label else "")
        return f"{source}{init} ({place})"


def find(tree: ast.Module, wanted: Callable[[ast.Call], bool], skip: Callable[[Scope], bool]) -> list[Construction]:
    """Every construction for which ``wanted`` holds, outside scopes that ``skip`` names; the most believed first."""
    found: list[Construction] = []
    for scope in scopes(tree):
        if not skip(scope):
            found += _in_block(scope, scope.body, (), wanted)
    return sorted(found, key=lambda c: (not c.runs_init, bool(c.scope.owner)))


def _in_block(
    scope: Scope, body: Sequence[ast.stmt], before: tuple[ast.stmt, ...], wanted: Callable[[ast.Call], bool]
) -> Iterator[Construction]:
    for index, node in enumerate(body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        earlier = (*before, *body[:index])
        inner = list(_inner_blocks(node))
        if inner:
            if isinstance(node, (ast.For, ast.AsyncFor)):
                earlier = (*earlier, _first_element(node))
            for block in inner:
                yield from _in_block(scope, block, earlier, wanted)
            continue
        for call in _calls(node):
            if wanted(call):
                target = _target(node, call)
                inits = tuple(_inits_after(body[index + 1 :], target)) if target is not None else ()
                yield Construction(scope, call, _with_own_init(node, call), target, earlier, inits)


def _inner_blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def _first_element(node: ast.For | ast.AsyncFor) -> ast.stmt:
    first = ast.Call(ast.Name("next", ast.Load()), [ast.Call(ast.Name("iter", ast.Load()), [node.iter], [])], [])
    made = ast.Assign([node.target], first)
    return ast.fix_missing_locations(ast.copy_location(made, node))


def _calls(node: ast.stmt) -> Iterator[ast.Call]:
    """Calls of a simple statement, outermost first, not inside lambdas."""
    queue: list[ast.AST] = [node]
    while queue:
        current = queue.pop(0)
        if isinstance(current, ast.Lambda):
            continue
        if isinstance(current, ast.Call):
            yield current
        queue += ast.iter_child_nodes(current)


def _target(node: ast.stmt, call: ast.Call) -> ast.expr | None:
    """What the made model is bound to, if the statement binds just it: ``net = Net().to(device)``."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                if call in ast.walk(other):
                    return one
        return target if isinstance(target, (ast.Name, ast.Attribute)) else None
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, (ast.Name, ast.Attribute)):
        return node.target
    return None


def _with_own_init(node: ast.stmt, call: ast.Call) -> ast.expr:
    """With what initialises it in the same expression: ``Net().apply(init)``, ``init_weights(Net())``."""
    parents = {child: parent for parent in ast.walk(node) for child in ast.iter_child_nodes(parent)}
    built: ast.expr = call
    current: ast.AST = call
    while (parent := parents.get(current)) is not None:
        above = parents.get(parent)
        if isinstance(parent, ast.Attribute) and isinstance(above, ast.Call) and above.func is parent:
            if parent.attr in _INIT_METHODS | _DTYPE_METHODS or _INIT_CALL.search(parent.attr):
                attribute = ast.copy_location(ast.Attribute(built, parent.attr, ast.Load()), parent)
                built = ast.copy_location(ast.Call(attribute, above.args, above.keywords), above)
            elif parent.attr not in _MOVES:
                break
            current = above
        elif isinstance(parent, ast.Call) and current in parent.args:
            name = ast.unparse(parent.func).rpartition(".")[2]
            if _INIT_CALL.search(name):
                arguments = [built if argument is current else argument for argument in parent.args]
                built = ast.copy_location(ast.Call(parent.func, arguments, parent.keywords), parent)
            elif name not in _WRAPPERS:
                break
            current = parent
        else:
            break
    return built


def _inits_after(body: Sequence[ast.stmt], target: ast.expr) -> Iterator[ast.stmt]:
    """Statements after a construction, in the same block, that write the weights of what it made."""
    name = ast.unparse(target)
    mention = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w])")
    for node in body:
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
            value = _without_moves(node.value)
            if ast.unparse(value) != name and not mention.search(ast.unparse(value)):
                return  # another model takes the name
        text = ast.unparse(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Return)) or not mention.search(text):
            continue
        if _NOT_INIT.search(text) or re.search(r"\.(backward|step)\(", text):
            continue
        if _initialises(node, name):
            yield node


def _without_moves(value: ast.expr) -> ast.expr:
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _MOVES:
        value = value.func.value
    return value


def _initialises(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        last = called.rpartition(".")[2]
        if called.startswith(f"{name}.") and (last in _INIT_METHODS | _DTYPE_METHODS or _INIT_CALL.search(last)):
            return True
        if re.search(r"\.(weight|bias|data)\b.*_\(", ast.unparse(node)) and called.startswith(f"{name}."):
            return True
        return bool(_INIT_CALL.search(last)) and "optim" not in called
    if isinstance(node, ast.Assign):
        if isinstance(node.value, ast.Call) and _INIT_CALL.search(ast.unparse(node.value.func).rpartition(".")[2]):
            return any(ast.unparse(t) == name for t in node.targets)
        return any(ast.unparse(t).startswith(f"{name}.") and _is_weight(t) for t in node.targets)
    if isinstance(node, ast.For):
        over = re.search(r"\.(named_)?(modules|parameters|children)\(|\.state_dict\(", ast.unparse(node.iter))
        return over is not None and re.search(r"init|_\(|\.data\b", "".join(map(ast.unparse, node.body))) is not None
    if isinstance(node, ast.With):
        return any(_initialises(inner, name) for inner in node.body)
    return False


def _is_weight(target: ast.expr) -> bool:
    return re.search(r"\.(weight|bias)(\.data)?(\[|$)", ast.unparse(target)) is not None


@dataclass
class Evaluation:
    """Evaluates constructions of one file, and remembers what had to be made up."""

    execution: Execution
    context: Context
    call_sites: dict[str, list[tuple[Scope, ast.Call, tuple[ast.stmt, ...]]]]
    made_up: dict[str, str] = field(default_factory=dict)

    def run(self, construction: Construction) -> Any:
        """What the construction makes, evaluated afresh: no weight is shared with an earlier evaluation."""
        wanted = set(names_used(construction.expression))
        for init in construction.inits:
            touched = statement(init)
            wanted |= touched.uses | touched.later
        if construction.target is not None:
            wanted -= names_used_by_target(construction.target)
        body = self._slice(construction.scope, construction.before, wanted)
        value = _Lenient(construction.call).visit(copy.deepcopy(construction.expression))
        return self._execute(construction, body, value)

    def value(self, scope: Scope, before: Sequence[ast.stmt], expression: ast.expr, depth: int = 0) -> Any:
        """The value of an expression in a scope; a Placeholder where it cannot be had."""
        body = self._slice(scope, before, set(names_used(expression)), depth)
        return self._run_function(scope, body, [], copy.deepcopy(expression), depth)

    def _execute(self, construction: Construction, body: list[ast.stmt], value: ast.expr) -> Any:
        tail: list[ast.stmt] = []
        result: ast.expr = value
        if construction.inits and construction.target is not None:
            bind = ast.Assign([_stored(construction.target)], value)
            tail = [ast.copy_location(bind, construction.call), *copy.deepcopy(list(construction.inits))]
            result = _loaded(construction.target)
        return self._run_function(construction.scope, body, tail, result, 0)

    def _slice(self, scope: Scope, before: Sequence[ast.stmt], wanted: set[str], depth: int = 0) -> list[ast.stmt]:
        """The statements that ``wanted`` needs, each guarded; what the module level must have is computed."""
        if scope.kind in ("module", "main"):
            every: list[Statement] = [
                candidate
                for node in (self.execution.source.tree.body if scope.kind == "main" else ())
                if not is_main_guard(node)
                for candidate in [statement(node)]
            ]
            every += [statement(node) for node in before]
        else:
            every = [statement(node) for node in before]
        taken = slice_for(wanted, [s for s in every if not _reads_stdin(s.node)])
        names = set(wanted).union(*(s.uses | s.later for s in taken)) if taken else set(wanted)
        self.execution.ensure(names - {n for s in taken for n in s.binds}, main=scope.kind == "main")
        kept = [s for s in taken if scope.kind == "function" or not (s.is_import or s.is_definition)]
        return [self._guarded(s) for s in kept]

    def _guarded(self, candidate: Statement) -> ast.stmt:
        """``try: x = f()`` with a made-up ``x`` where that fails; never a call that discovery does not make."""
        denied = denied_call(candidate.node, self.execution.source.imports)
        names = sorted(candidate.binds)
        handler_body: list[ast.stmt] = [
            ast.Assign(
                [ast.Name(name, ast.Store())],
                _helper_call("recover", ast.Constant(name), ast.Name("__error__", ast.Load())),
            )
            for name in names
        ] or [ast.Pass()]
        if denied is not None:
            body: list[ast.stmt] = [
                ast.Assign(
                    [ast.Name(name, ast.Store())], _helper_call("recover", ast.Constant(name), ast.Constant(denied))
                )
                for name in names
            ] or [ast.Pass()]
            return _placed(ast.If(ast.Constant(True), body, []), candidate.node)
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), "__error__", handler_body)
        return _placed(ast.Try([copy.deepcopy(candidate.node)], [handler], [], []), candidate.node)

    def _run_function(
        self, scope: Scope, body: list[ast.stmt], tail: list[ast.stmt], result: ast.expr, depth: int
    ) -> Any:
        """Run statements and give an expression's value: in a function for a function's scope, else at module level."""
        namespace = self.execution.module.__dict__
        if scope.function is None:
            given: dict[str, Any] = {}
            store = ast.Assign([ast.Name("__initcheck_result__", ast.Store())], result)
            statements = [*body, *tail, ast.fix_missing_locations(ast.copy_location(store, result))]
            code = self.execution.compile(ast.Module(statements, []))
        else:
            given = self._arguments(scope, body, tail, result, depth)
            finish = ast.copy_location(ast.Return(result), result)
            code = self.execution.compile(_maker(scope.function, list(given), [*body, *tail, finish]))
        namespace["__initcheck__"] = SimpleNamespace(recover=self._recover, call=self._call, value=_value)
        with self.execution.session.active():
            exec(code, namespace)
            try:
                if scope.function is None:
                    return namespace.pop("__initcheck_result__")
                return namespace.pop("__initcheck_make__")()(**given)
            finally:
                namespace.pop("__initcheck__", None)

    def _arguments(
        self, scope: Scope, body: list[ast.stmt], tail: list[ast.stmt], result: ast.expr, depth: int
    ) -> dict[str, Any]:
        """The parameters of the enclosing function that the slice reads: default, a call in the file, or made up."""
        assert scope.function is not None
        read = set(names_used(result)).union(*(s.uses | s.later for s in map(statement, [*body, *tail])))
        arguments = scope.function.args
        every = [*arguments.posonlyargs, *arguments.args]
        defaults = dict(zip([a.arg for a in every[::-1]], arguments.defaults[::-1], strict=False))
        defaults |= {
            a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
        }
        given: dict[str, Any] = {}
        for position, argument in enumerate([*every, *arguments.kwonlyargs]):
            if argument.arg in read:
                given[argument.arg] = self._argument(scope, argument.arg, position, defaults.get(argument.arg), depth)
        return given

    def _argument(self, scope: Scope, name: str, position: int, default: ast.expr | None, depth: int) -> Any:
        if scope.owner and position == 0:
            return SimpleNamespace()
        assert scope.function is not None
        site_name = scope.owner if scope.owner and scope.function.name == "__init__" else scope.function.name
        shift = 1 if scope.owner else 0
        for site, call, before in self.call_sites.get(site_name, ())[:2] if depth < 2 else ():
            expression = next((k.value for k in call.keywords if k.arg == name), None)
            if expression is None and position - shift < len(call.args):
                expression = call.args[position - shift]
            if expression is None or isinstance(expression, ast.Starred):
                continue
            try:
                found = self.value(site, before, expression, depth + 1)
            except Exception:
                continue
            if not isinstance(found, Placeholder):
                return found
        if default is not None:
            return self.value(Scope("module", ()), (), default, depth + 1)
        return self._recover(name, "nothing in the file says what it is")

    def _recover(self, name: str, error: BaseException | str) -> Any:
        """A value for a variable whose own could not be had."""
        if is_environment(name.lower()):
            made: Any = self.context.make_environment()
        else:
            made = by_name(name) if _SIZE.search(name) else UNKNOWN
        reason = error if isinstance(error, str) else describe(error, self.execution.source.path)
        if made is UNKNOWN or made is None:
            return Placeholder(name, reason)
        self.made_up[name] = repr(made)
        return made

    def _call(self, target: Any) -> Any:
        """``target``, with made-up values in place of arguments that could not be had."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not any(isinstance(value, Placeholder) for value in (*args, *kwargs.values())):
                return target(*args, **kwargs)
            known = parameters(target, None)
            for position, value in enumerate(args):
                if position < len(known):
                    kwargs.setdefault(known[position].name, value)
            for parameter in known:
                value = kwargs.get(parameter.name)
                if isinstance(value, Placeholder):
                    made = value_for(parameter, self.context)
                    if made is UNKNOWN:
                        raise NotAvailableError(f"{parameter.name}={value!r}: {value._reason}")
                    self.made_up[parameter.name] = repr(made)
                    kwargs[parameter.name] = made
            return target(*args[len(known) :], **kwargs)

        return call


def _maker(like: ast.FunctionDef, names: list[str], body: list[ast.stmt]) -> ast.Module:
    """``__initcheck_make__()`` gives a function with ``like``'s name and place, other parameters and another body."""
    name = like.name
    tree = ast.parse(f"def __initcheck_make__():\n    def {name}({', '.join(names)}):\n        pass\n    return {name}")
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            ast.copy_location(node, like)
    outer = tree.body[0]
    assert isinstance(outer, ast.FunctionDef)
    assert isinstance(outer.body[0], ast.FunctionDef)
    outer.body[0].body = body
    return ast.fix_missing_locations(tree)


def names_used_by_target(target: ast.expr) -> set[str]:
    """Names that a target alone brings in: its own, unless it is an attribute of something (``self.net``)."""
    return {target.id} if isinstance(target, ast.Name) else set()


def _value(make: Callable[[], Any]) -> Any:
    """An argument's value; a Placeholder where computing it fails."""
    try:
        return make()
    except NotAvailableError as error:
        return Placeholder("an argument", str(error))
    except NameError as error:
        if "free variable" not in str(error):
            raise  # a global: it can be computed yet
        return Placeholder("an argument", str(error))
    except (AttributeError, OSError, LookupError, UnboundLocalError) as error:
        return Placeholder("an argument", f"{type(error).__name__}: {error}")


class _Lenient(ast.NodeTransformer):
    """Lets the arguments of the construction's own call fail one by one."""

    def __init__(self, call: ast.Call) -> None:
        self._key = (call.lineno, call.col_offset, call.end_col_offset)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if (node.lineno, node.col_offset, node.end_col_offset) != self._key:
            return node
        arguments = [self._lazy(argument) for argument in node.args]
        keywords = [
            ast.copy_location(ast.keyword(k.arg, self._lazy(k.value) if k.arg else k.value), k) for k in node.keywords
        ]
        made = ast.Call(_helper_call("call", node.func), arguments, keywords)
        return _placed(made, node)

    @staticmethod
    def _lazy(node: ast.expr) -> ast.expr:
        if isinstance(node, (ast.Constant, ast.Starred)):
            return node
        empty = ast.arguments([], [], None, [], [], None, [])
        return _placed(_helper_call("value", ast.Lambda(empty, node)), node)


def _helper_call(name: str, *arguments: ast.expr) -> ast.Call:
    helper = ast.Attribute(ast.Name("__initcheck__", ast.Load()), name, ast.Load())
    return ast.Call(helper, list(arguments), [])


_Node = TypeVar("_Node", bound=ast.AST)


def _placed(node: _Node, where: ast.AST) -> _Node:
    return ast.fix_missing_locations(ast.copy_location(node, where))


def _stored(target: ast.expr) -> ast.expr:
    made = copy.deepcopy(target)
    made.ctx = ast.Store()  # type: ignore[attr-defined]
    return made


def _loaded(target: ast.expr) -> ast.expr:
    made = copy.deepcopy(target)
    made.ctx = ast.Load()  # type: ignore[attr-defined]
    return made


def _reads_stdin(node: ast.stmt) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "input" for n in ast.walk(node)
    )


def call_sites(tree: ast.Module) -> dict[str, list[tuple[Scope, ast.Call, tuple[ast.stmt, ...]]]]:
    """Where each function or class is called by its plain name."""
    found: dict[str, list[tuple[Scope, ast.Call, tuple[ast.stmt, ...]]]] = {}
    for construction in find(tree, lambda call: isinstance(call.func, ast.Name), lambda scope: False):
        assert isinstance(construction.call.func, ast.Name)
        site = (construction.scope, construction.call, construction.before)
        found.setdefault(construction.call.func.id, []).append(site)
    return found
