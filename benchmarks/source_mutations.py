"""Mistakes that are written into good source files, each as a person makes it: a slip in one place of the text.

A mutation looks through a file's syntax tree and yields the texts that come of the slip, one for each place.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mutants import SCALE, UNITS
from source_text import Text


@dataclass(frozen=True, slots=True)
class Slip:
    """``text``: the spoiled file. ``lines``: where a finding may point, ``changed``: what differs, in its numbering."""

    text: str
    lines: frozenset[int]
    changed: frozenset[int]


@dataclass(frozen=True, slots=True)
class SourceMutation:
    """One class of mistake. ``effect``: how its harm is measured, see ``source_effect.py``.

    ``sites``: at most so many mutants of one file.
    """

    name: str
    codes: tuple[str, ...]
    effect: str
    change: Callable[[Text], Iterator[str | tuple[str, tuple[ast.AST, ...]]]]
    sites: int = 1

    def slips(self, text: str) -> Iterator[Slip]:
        source = Text(text)
        for made in self.change(source):
            new, also = made if isinstance(made, tuple) else (made, ())
            if new != text:
                yield Slip(new, *_lines(text, new, also))


def _lines(old: str, new: str, also: tuple[ast.AST, ...]) -> tuple[frozenset[int], frozenset[int]]:
    """Line numbers of the new text that differ, with those where the nodes of the old one came to stand; and the former
    alone, with the starts of the calls and plain statements that they are part of."""
    before, after = old.splitlines(), new.splitlines()
    lines: set[int] = set()
    shifted: dict[int, int] = {}
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            lines.update(range(j1 + 1, max(j2, j1 + 1) + 1))
        shifted.update(zip(range(i1 + 1, i2 + 1), range(j1 + 1, j2 + 1), strict=False))
    changed = set(lines)
    for node in also:
        first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        lines.update(shifted[n] for n in range(first, last + 1) if n in shifted)
    try:
        for call in ast.walk(ast.parse(new)):  # a finding stands at the start of a call of several lines
            if isinstance(call, ast.stmt | ast.Call) and call.end_lineno is not None:
                span = range(call.lineno, call.end_lineno + 1)
                if len(span) < 7 and lines & set(span):
                    lines.add(call.lineno)
                if changed & set(span) and not hasattr(call, "body"):
                    changed.add(call.lineno)
    except SyntaxError:
        pass
    return frozenset(lines), frozenset(changed)


# -- what is looked for in a file ------------------------------------------------------------------------------------

_WRITER = re.compile(r"(?:kaiming|xavier|orthogonal|normal|uniform|trunc_normal|constant|zeros|ones|fill|zero)\w*_$")
_RANDOM = re.compile(r"(?:kaiming|xavier|orthogonal|trunc_normal|normal|uniform)\w*_$")


def _writes(source: Text, pattern: re.Pattern[str] = _RANDOM) -> Iterator[tuple[ast.Call, str, ast.expr, bool]]:
    """(call, function, the tensor written, whether it is a method) of ``nn.init.f_(w, ...)`` and ``w.data.f_(...)``."""
    for call in source.walk(ast.Call):
        assert isinstance(call, ast.Call)
        name = ast.unparse(call.func).rpartition(".")[2]
        if not pattern.fullmatch(name):
            continue
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        module = owner is None or ast.unparse(owner) in ("init", "nn.init", "torch.nn.init")
        if module and call.args:
            yield call, name, call.args[0], False
        elif not module and isinstance(owner, ast.Attribute):
            yield call, name, owner, True


def _is_weight(node: ast.expr) -> bool:
    text = ast.unparse(node).removesuffix(".data")
    return text.endswith(".weight") or text in ("p", "param", "parameter")


def _constructors(source: Text) -> Iterator[ast.FunctionDef]:
    for node in source.walk(ast.FunctionDef):
        assert isinstance(node, ast.FunctionDef)
        if node.name == "__init__":
            yield node


def _init_statement(node: ast.stmt) -> bool:
    """``self.apply(...)``, ``self._init_weights()``, ``for m in self.modules(): ...``."""
    text = ast.unparse(node).partition("\n")[0]
    if isinstance(node, ast.Expr):
        return re.match(r"self\.(?:apply\(|\w*(?:init|reset)\w*\()", text) is not None and "__init__" not in text
    return isinstance(node, ast.For) and "self.modules()" in text


def _super_call(body: list[ast.stmt]) -> int | None:
    return next((i for i, s in enumerate(body) if "super(" in ast.unparse(s).partition("\n")[0]), None)


# -- the slips -------------------------------------------------------------------------------------------------------


def _typo(source: Text) -> Iterator[str]:
    """Two letters of a name filter change places."""
    for text in _filters(source):
        word = text.value
        assert isinstance(word, str)
        at = next((i for i in range(1, len(word) - 1) if word[i] != word[i + 1] and word[i : i + 2].isalpha()), None)
        if at is not None:
            yield source.with_((text, repr(word[:at] + word[at + 1] + word[at] + word[at + 2 :])))


def _filters(source: Text) -> Iterator[ast.Constant]:
    """String literals of ``if`` tests that choose parameters by their name."""
    seen: set[ast.AST] = set()
    for guard in source.walk(ast.If):
        assert isinstance(guard, ast.If)
        if not any(_WRITER.search(ast.unparse(c.func)) for s in guard.body for c in _calls(s)):
            continue
        for node in ast.walk(guard.test):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and len(text) > 3 and not text.startswith(".") and node not in seen:
                seen.add(node)
                yield node  # type: ignore[misc]


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Call))


def _equals(source: Text) -> Iterator[str]:
    """``name == "proj.weight"`` for ``name.endswith("proj.weight")``."""
    for call in source.walk(ast.Call):
        assert isinstance(call, ast.Call)
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "endswith":
            continue
        if isinstance(call.args[0], ast.Constant) and "." in str(call.args[0].value):
            yield source.with_((call, f"{source.of(call.func.value)} == {source.of(call.args[0])}"))


def _before_all(source: Text) -> Iterator[tuple[str, tuple[ast.AST, ...]]]:
    """The init runs right after ``super().__init__()``."""
    for function in _constructors(source):
        start = _super_call(function.body)
        for index, statement in enumerate(function.body):
            if start is not None and index > start + 1 and _init_statement(statement):
                called = re.match(r"self\.(\w+)\(", ast.unparse(statement))
                methods = [f for f in source.walk(ast.FunctionDef) if called and f.name == called[1]]  # type: ignore[attr-defined]
                yield source.moved(statement, function.body[start + 1]), tuple(methods)


def _return_inside(source: Text) -> Iterator[str]:
    """A loop over the modules that ends after its first init."""
    for loop in source.walk(ast.For):
        assert isinstance(loop, ast.For)
        if not re.search(r"\.(?:named_)?(?:modules|parameters)\(\)$", ast.unparse(loop.iter)):
            continue
        first = loop.body[0]
        if isinstance(first, ast.If) and any(_WRITER.search(ast.unparse(c.func)) for c in _calls(first.body[-1])):
            last = first.body[-1]
            yield source.with_((last, source.of(last) + "\n" + " " * last.col_offset + "return"))


def _reparametrised(function: str) -> Callable[[Text], Iterator[str]]:
    """A layer is wrapped in weight norm, and its weight written afterwards as before."""

    def change(source: Text) -> Iterator[str]:
        written = [ast.unparse(t).removesuffix(".data") for _, _, t, _ in _writes(source)]
        for made in source.walk(ast.Assign):
            assert isinstance(made, ast.Assign)
            target, value = ast.unparse(made.targets[0]), made.value
            if f"{target}.weight" not in written or not isinstance(value, ast.Call):
                continue
            if re.fullmatch(r"(?:torch\.)?(?:nn\.)?(?:Linear|Conv[123]d)", ast.unparse(value.func)):
                yield source.with_((value, f"{function}({source.of(value)})")), tuple(_writers_of(source, target))

    return change


def _writers_of(source: Text, layer: str) -> Iterator[ast.AST]:
    for call, _, target, _ in _writes(source):
        if ast.unparse(target).removesuffix(".data") == f"{layer}.weight":
            yield call


def _wrong_fan(source: Text) -> Iterator[str]:
    """The size of the weight's first axis for the fan-in, where a std or a bound is made of it."""
    writers = [(f.lineno, f.end_lineno) for f in source.walk(ast.FunctionDef) if _is_writer(f)]  # type: ignore[attr-defined]
    for node in source.walk(ast.expr):
        if not any(first <= node.lineno <= last for first, last in writers):  # type: ignore[attr-defined]
            continue
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call | ast.Subscript) else ""
        if text.endswith(".in_features"):
            yield source.with_((node, source.of(node)[: -len("in_features")] + "out_features"))
        elif re.fullmatch(r"[\w.]+\.weight\.(?:size\(-?1\)|shape\[-?1\])", text):
            yield source.with_((node, re.sub(r"-?1(?=[\])]$)", "0", text)))


def _is_writer(function: ast.AST) -> bool:
    """Whether a function writes weights, and computes a root."""
    calls = [ast.unparse(call.func) for call in _calls(function)]
    rooted = any(name.endswith("sqrt") for name in calls) or "** -0.5" in ast.unparse(function)
    return rooted and any(_RANDOM.search(name) for name in calls)


def _copy(suffix: str) -> Callable[[Text], Iterator[str]]:
    """The init is done to a copy of the weight."""

    def change(source: Text) -> Iterator[str]:
        for _, _, target, method in _writes(source):
            if _is_weight(target):
                whole = source.of(target)
                yield source.with_((target, whole + (suffix.removeprefix(".data") if method else suffix)))

    return change


def _same_name_twice(source: Text) -> Iterator[str]:
    """One of two sibling layers is initialised twice, the other never."""
    targets = [t for _, _, t, _ in _writes(source) if re.match(r"self\.[\w.]+\.weight", ast.unparse(t))]
    for one, other in itertools.pairwise(targets):
        first, second = ast.unparse(one), ast.unparse(other)
        if first != second and other.lineno - one.lineno <= 2:  # next to each other
            yield source.with_((other, source.of(one))), (one,)


def _or_constant(source: Text) -> Iterator[str]:
    """``if "a" or "b" in name``."""
    for guard in source.walk(ast.If):
        assert isinstance(guard, ast.If)
        test = guard.test
        if not any(_WRITER.search(ast.unparse(c.func)) for s in guard.body for c in _calls(s)):
            continue
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.In) and isinstance(test.left, ast.Constant):
            yield source.with_((test, f'"proj" or {source.of(test)}'))
        elif isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance":
            kind = ast.unparse(test.args[1])
            if kind.endswith((".Linear", ".Conv2d")) and "(" not in kind:
                yield source.with_((test, f"{source.of(test)} or {kind.rpartition('.')[0]}.Conv1d"))


def _mean_for_std(source: Text) -> Iterator[str]:
    """The std lands in the parameter of the mean."""
    for call, _, target, method in _writes(source, re.compile("normal_")):
        given = {k.arg: k.value for k in call.keywords}
        std = given.get("std") or (call.args[-1] if len(call.args) > (1 if method else 2) else None)
        if std is not None:
            first = "" if method else f"{source.of(target)}, "
            yield source.with_((call, f"{source.of(call.func)}({first}{source.of(std)})"))


def _gain_for_slope(source: Text) -> Iterator[str]:
    """A gain lands in ``a``, the slope of a leaky ReLU."""
    for call, _, target, method in _writes(source, re.compile(r"kaiming_\w+_")):
        init = ast.unparse(call.func).rpartition(".")[0]
        prefix = f"{init}." if init else "nn.init."
        rest = [source.of(k) for k in call.keywords if k.arg in ("mode",)]
        if not method:
            inside = ", ".join([source.of(target), f"{prefix}calculate_gain('relu')", *rest])
            yield source.with_((call, f"{source.of(call.func)}({inside})"))


def _momentum_for_eps(source: Text) -> Iterator[str]:
    """BatchNorm(channels, 0.8)."""
    for call in source.walk(ast.Call):
        assert isinstance(call, ast.Call)
        if re.search(r"BatchNorm[12]d$", ast.unparse(call.func)) and len(call.args) == 1 and not call.keywords:
            yield source.with_((call, f"{source.of(call.func)}({source.of(call.args[0])}, 0.8)"))


def _truth_of_bias(source: Text) -> Iterator[str]:
    """``if m.bias:`` for ``if m.bias is not None:``."""
    for test in source.walk(ast.Compare):
        assert isinstance(test, ast.Compare)
        if re.fullmatch(r"[\w.]+\.bias is not None", ast.unparse(test)):
            yield source.with_((test, source.of(test.left)))


def _module_for_tensor(source: Text) -> Iterator[str]:
    """``zeros_(self.decoder)``."""
    for _, _, target, method in _writes(source, _WRITER):
        if not method and isinstance(target, ast.Attribute) and target.attr in ("weight", "bias"):
            yield source.with_((target, source.of(target.value)))


def _load_first(source: Text) -> Iterator[str]:
    """The weights are loaded, then the init runs."""
    for function in _constructors(source):
        for statement in function.body:
            if _init_statement(statement):
                load = 'self.load_state_dict(torch.load("weights.pt"))'
                yield source.inserted(load, statement), (statement,)


def _overwritten(source: Text) -> Iterator[str]:
    """A layer gets an init of its own, and then that of all."""
    for function in _constructors(source):
        layers = [
            ast.unparse(s.targets[0])
            for s in function.body
            if isinstance(s, ast.Assign) and re.fullmatch(r"(?:torch\.)?nn\.(?:Linear|Conv2d)", _function_of(s.value))
        ]
        for statement in function.body:
            if _init_statement(statement) and layers and "apply(" in ast.unparse(statement):
                yield source.inserted(f"torch.nn.init.orthogonal_({layers[0]}.weight)", statement)


def _function_of(node: ast.expr) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _empty(source: Text) -> Iterator[str]:
    """A parameter made of unwritten memory."""
    for call in source.walk(ast.Call):
        assert isinstance(call, ast.Call)
        if not ast.unparse(call.func).endswith("Parameter") or not call.args:
            continue
        made = call.args[0]
        maker = _function_of(made)
        if re.fullmatch(r"torch\.(?:zeros|ones|randn|rand)", maker):
            assert isinstance(made, ast.Call)
            yield source.with_((made.func, "torch.empty"))


_UNWRITTEN = re.compile(r"Parameter\(torch\.(?:empty|Tensor|FloatTensor)\(")


def _write_forgotten(source: Text) -> Iterator[str]:
    """A parameter of torch.empty whose init is gone."""
    made = {
        ast.unparse(s.targets[0]): s
        for s in source.walk(ast.Assign)
        if isinstance(s, ast.Assign) and _UNWRITTEN.search(ast.unparse(s.value))
    }
    for statement in source.walk(ast.Expr):
        assert isinstance(statement, ast.Expr)
        for name, assigned in made.items():
            if isinstance(statement.value, ast.Call) and _WRITER.search(ast.unparse(statement.value.func)):
                target = statement.value.args[:1]
                if target and ast.unparse(target[0]) == name:
                    yield source.without(statement), (assigned,)


def _never_called(source: Text) -> Iterator[str]:
    """The call of the init method is gone."""
    for function in _constructors(source):
        for statement in function.body:
            if _init_statement(statement) and isinstance(statement, ast.Expr):
                called = re.search(r"self\.(_?(?:init|reset)\w*)", ast.unparse(statement).replace("self.apply(", ""))
                if called:
                    defined = [f for f in source.walk(ast.FunctionDef) if f.name == called[1]]  # type: ignore[attr-defined]
                    if defined:
                        yield source.without(statement), tuple(defined)


def _deep_copies(source: Text) -> Iterator[str]:
    """The layers of a list are copies of one."""
    for made in source.walk(ast.ListComp):
        assert isinstance(made, ast.ListComp)
        loop = made.generators[0]
        used = {n.id for n in ast.walk(made.elt) if isinstance(n, ast.Name)}
        if not _function_of(made.elt)[:1].isupper() or "range(" not in ast.unparse(loop.iter):
            continue
        if isinstance(loop.target, ast.Name) and loop.target.id not in used:
            statement = _statement_of(source, made)
            copied = source.with_((made.elt, "__import__('copy').deepcopy(layer)"))
            lines = copied.splitlines(keepends=True)
            at = statement.lineno - 1
            line = " " * statement.col_offset + f"layer = {ast.unparse(made.elt)}\n"
            yield "".join([*lines[:at], line, *lines[at:]])


def _statement_of(source: Text, node: ast.AST) -> ast.stmt:
    """The innermost simple statement that a node stands in."""
    around = [
        s
        for s in source.walk(ast.stmt)
        if s.lineno <= node.lineno and s.end_lineno >= node.end_lineno  # type: ignore[attr-defined]
    ]
    return max(around, key=lambda s: (s.lineno, s.col_offset))  # type: ignore[attr-defined,return-value]


def _module(source: Text) -> str:
    """How the file can name ``torch.nn.init``."""
    return "torch.nn.init" if re.search(r"^import torch$", source.text, re.M) else "nn.init"


def _rewritten(call: str) -> Callable[[Text], Iterator[str]]:
    """The init of a weight becomes another one; ``{w}`` is the weight."""

    def change(source: Text) -> Iterator[str]:
        for node, _, target, _ in _writes(source):
            if _is_weight(target):
                weight = source.of(target).removesuffix(".data")
                yield source.with_((node, f"{_module(source)}.{call.format(w=weight)}"))

    return change


def _weight_for_bias(source: Text) -> Iterator[str]:
    """``zeros_(m.weight)`` where ``zeros_(m.bias)`` was meant."""
    for _, _, target, _ in _writes(source, re.compile("zeros_|zero_|constant_|fill_")):
        text = ast.unparse(target).removesuffix(".data")
        if text.endswith(".bias") and isinstance(target, ast.Attribute):
            yield source.with_((target, re.sub(r"\.bias\b", ".weight", source.of(target))))


def _std_times(factor: str) -> Callable[[Text], Iterator[str]]:
    def change(source: Text) -> Iterator[str]:
        for call, _, _, method in _writes(source, re.compile("normal_|trunc_normal_")):
            given = {k.arg: k.value for k in call.keywords}
            std = given.get("std") or (call.args[-1] if len(call.args) > (1 if method else 2) else None)
            if std is not None:
                yield source.with_((std, f"{factor} * ({source.of(std)})"))

    return change


def _one_sided(source: Text) -> Iterator[str]:
    """``uniform_(w, 0, b)`` for ``uniform_(w, -b, b)``."""
    for call, _, _, method in _writes(source, re.compile("uniform_")):
        bounds = call.args[0 if method else 1 :]
        if len(bounds) == 2 and ast.unparse(bounds[0]).startswith("-"):
            yield source.with_((bounds[0], "0"))


def _sunk_bias(source: Text) -> Iterator[str]:
    """Every bias at -10."""
    for call, name, target, method in _writes(source, re.compile("zeros_")):
        if ast.unparse(target).endswith(".bias") and not method:
            function = source.of(call.func)[: -len(name)] + "constant_"
            yield source.with_((call, f"{function}({source.of(target)}, -10.0)"))


def _other_projection(source: Text) -> Iterator[str]:
    """The depth scaling takes the branch's first matrix in place of its last."""
    for text in _filters(source):
        if isinstance(text.value, str) and text.value.endswith("proj.weight"):
            yield source.with_((text, repr("c_fc.weight")))


def _both_zero(source: Text) -> Iterator[str]:
    """Both factors of a low-rank product start at zero."""
    for statement in source.walk(ast.Assign):
        assert isinstance(statement, ast.Assign)
        target, value = statement.targets[0], statement.value
        if re.search(r"lora_A|down|\.a$", ast.unparse(target)) and isinstance(value, ast.Call):
            for made in _calls(value):
                if ast.unparse(made.func) in ("torch.randn", "torch.rand"):
                    yield source.with_((made.func, "torch.zeros"))


_INIT = ("IC101", "IC102", "IC103", "IC104", "IC105", "IC106", "IC111", "IC113")
_GUARD = ("IC105", "IC107")

SOURCE_MUTATIONS = (
    SourceMutation("typo in a name filter", _GUARD, "arrival", _typo, 2),
    SourceMutation("== in place of endswith", ("IC105",), "arrival", _equals, 2),
    SourceMutation("depth scaling of another projection", ("IC403", "IC105"), "arrival", _other_projection),
    SourceMutation("init before the layers", ("IC106", "IC803"), "arrival", _before_all, 2),
    SourceMutation("return in the init loop", ("IC106",), "arrival", _return_inside, 2),
    SourceMutation("write behind weight_norm", ("IC104",), "arrival", _reparametrised("torch.nn.utils.weight_norm"), 2),
    SourceMutation(
        "write behind a parametrization", ("IC104",), "arrival",
        _reparametrised("torch.nn.utils.parametrizations.weight_norm"),
    ),
    SourceMutation("fan of the wrong axis", ("IC301", *SCALE), "arrival", _wrong_fan),
    SourceMutation("init of a clone", ("IC113",), "copy", _copy(".data.clone()")),
    SourceMutation("init of a converted copy", ("IC113",), "copy", _copy(".data.double()")),
    SourceMutation("same layer named twice", ("IC103",), "arrival", _same_name_twice, 2),
    SourceMutation("constant guard", ("IC107",), "arrival", _or_constant, 2),
    SourceMutation("std given as the mean", ("IC802", *SCALE), "arrival", _mean_for_std, 2),
    SourceMutation("gain given as the slope", ("IC802", *SCALE), "arrival", _gain_for_slope, 2),
    SourceMutation("momentum given as eps", ("IC802",), "norms", _momentum_for_eps),
    SourceMutation("truth of a bias", ("IC803",), "arrival", _truth_of_bias),
    SourceMutation("module in place of its tensor", ("IC803",), "arrival", _module_for_tensor),
    SourceMutation("init after the weights were loaded", ("IC108",), "loaded", _load_first),
    SourceMutation("init overwritten", ("IC102",), "overwritten", _overwritten),
    SourceMutation("parameter of torch.empty", ("IC101",), "arrival", _empty, 2),
    SourceMutation("init of torch.empty forgotten", ("IC101",), "arrival", _write_forgotten, 2),
    SourceMutation("init function never called", ("IC111", "IC101"), "arrival", _never_called),
    SourceMutation("layers copied from one", ("IC109",), "copies", _deep_copies),
    SourceMutation("weights zero", (*UNITS, "IC202"), "units", _rewritten("zeros_({w})")),
    SourceMutation("weights constant", UNITS, "units", _rewritten("constant_({w}, 0.02)")),
    SourceMutation("zeros_ of the weight, not the bias", UNITS, "units", _weight_for_bias),
    SourceMutation("weights N(0, 1)", SCALE, "signal", _rewritten("normal_({w})")),
    SourceMutation("weights U(0, 1)", ("IC305", *SCALE), "signal", _rewritten("uniform_({w})")),
    SourceMutation("weights U(0, b)", ("IC305", *SCALE), "signal", _one_sided),
    SourceMutation("std x 100", SCALE, "signal", _std_times("100")),
    SourceMutation("std x 1e-4", SCALE, "signal", _std_times("1e-4")),
    SourceMutation("zeros_ of biases made -10", (*SCALE, "IC603", "IC705"), "signal", _sunk_bias),
    SourceMutation("both low-rank factors zero", ("IC704",), "units", _both_zero),
)  # fmt: skip
