"""Which classes of a file are models of their own: not parts of another class, and with parameters to initialise."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cached_property
from types import ModuleType
from typing import Any

from torch import nn

from initcheck.discovery.slicing import statement
from initcheck.source.file import SourceFile
from initcheck.source.torch_names import words

_BARE_LAYERS = frozenset(
    words("""
    Module Sequential ModuleList ModuleDict Identity Flatten Unflatten Upsample PixelShuffle PixelUnshuffle ReLU
    ReLU6 GELU SiLU ELU SELU CELU Mish Tanh Sigmoid Softmax Softmax2d LogSoftmax LogSigmoid LeakyReLU RReLU
    Hardswish Hardsigmoid Hardtanh Softplus Softsign Softmin Tanhshrink Threshold GLU Dropout Dropout1d Dropout2d
    Dropout3d AlphaDropout MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d
    AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d ZeroPad2d
    ReflectionPad1d ReflectionPad2d ReplicationPad2d ConstantPad1d ConstantPad2d Fold Unfold CosineSimilarity
    PairwiseDistance ChannelShuffle DataParallel functional init utils parallel modules
    """)
)
_PARAMETRISED = (
    nn.Linear,
    nn.Embedding,
    nn.RNNBase,
    nn.LayerNorm,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
)
_CONTAINERS = frozenset({"torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.ModuleDict"})
_LOOKS_AT_TYPES = frozenset({"isinstance", "issubclass", "print", "type", "super", "getattr", "hasattr", "cast"})


class Definitions:
    """The classes and functions of a loaded file, and what they refer to."""

    def __init__(self, source: SourceFile, module: ModuleType) -> None:
        self.source = source
        self.module = module
        self.functions: dict[str, ast.FunctionDef] = {}
        self._nodes: dict[str, ast.stmt] = {}
        self.modules: dict[str, ast.ClassDef] = {}
        """The classes that are modules, as defined here."""
        for node in _top_level(source.tree.body):
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
                self._nodes[node.name] = node
            elif isinstance(node, ast.ClassDef):
                self._nodes[node.name] = node
                if self.is_module_class(module.__dict__.get(node.name), node.name):
                    self.modules[node.name] = node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self._nodes.setdefault(target.id, node)
        self._references = {name: _references(node) for name, node in self._nodes.items()}

    def is_module_class(self, value: Any, name: str) -> bool:
        """Whether a value is the module class that this file defines under that name."""
        return isinstance(value, type) and issubclass(value, nn.Module) and value.__name__ == name

    def reached_from(self, name: str) -> set[str]:
        """Names of this file that ``name`` refers to, through functions and constants, not through other modules."""
        found: set[str] = set()
        queue = [name]
        while queue:
            for reference in self._references.get(queue.pop(), ()):
                if reference in self._nodes and reference not in found and reference != name:
                    found.add(reference)
                    if reference not in self.modules:
                        queue.append(reference)
        return found

    @cached_property
    def helpers(self) -> frozenset[str]:
        """Functions that module classes call: parts of these, not models of their own."""
        return frozenset(name for owner in self.modules for name in self.reached_from(owner) if name in self.functions)

    def bases(self, name: str) -> set[str]:
        """The module classes of this file that ``name`` derives from."""
        cls = self.module.__dict__[name]
        return {base.__name__ for base in cls.__mro__[1:] if self.modules.get(base.__name__) and self._is_here(base)}

    def _is_here(self, cls: type) -> bool:
        return self.module.__dict__.get(cls.__name__) is cls

    @cached_property
    def roots(self) -> list[str]:
        """The classes to analyse, in the order of the file."""
        derived = {base for name in self.modules for base in self.bases(name)}
        parts = self._passed_as_arguments()
        for owner in self.modules:
            parts |= (self.reached_from(owner) & set(self.modules)) - self.bases(owner)
        candidates = [name for name in self.modules if self.may_have_parameters(name) and self._can_run(name, derived)]
        roots = [name for name in candidates if name not in parts]
        return roots or candidates[-1:]

    def _can_run(self, name: str, derived: set[str]) -> bool:
        """A base of other classes here counts only if it has a forward of its own and layers of its own."""
        if name not in derived:
            return True
        node = self.modules[name]
        own = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        return "__init__" in own and "forward" in own and not is_abstract(own["forward"])

    def may_have_parameters(self, name: str, seen: frozenset[str] = frozenset()) -> bool:
        """False only if nothing that the class or its helpers name could hold a parameter."""
        if name in seen:
            return False
        seen = seen | {name} | self.bases(name)
        if any(issubclass(base, _PARAMETRISED) for base in self.module.__dict__[name].__mro__):
            return True
        family = {name} | self.bases(name)
        reached = family.union(*(self.reached_from(member) for member in family))
        for reference in sorted(reached):
            if reference in self.modules and reference not in family:
                if self.may_have_parameters(reference, seen):
                    return True
            elif self._names_parameters(self._nodes[reference]):
                return True
        return False

    def _names_parameters(self, node: ast.stmt) -> bool:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and inner.attr in ("register_parameter", "Parameter"):
                return True
            if not isinstance(inner, (ast.Name, ast.Attribute)):
                continue
            name = self.source.imports.resolve(inner)
            if name is None or name == "torch.nn":
                continue
            root, _, rest = name.partition(".")
            if root == "torch":
                layer = name.removeprefix("torch.nn.")
                if layer != name and layer.partition(".")[0] not in _BARE_LAYERS and not layer.endswith("Loss"):
                    return True
            elif root not in _PLAIN_PACKAGES and rest[:1] != "_":
                return True
        return _calls_own_argument(node)

    def _passed_as_arguments(self) -> set[str]:
        """Classes handed to a call (``ResNet(BasicBlock, ...)``), or made as arguments of a module's constructor."""
        found: set[str] = set()
        for call in ast.walk(self.source.tree):
            if not isinstance(call, ast.Call):
                continue
            if isinstance(call.func, ast.Name) and call.func.id in _LOOKS_AT_TYPES:
                continue
            holds = self._makes_module(call)
            if not holds and called_name(call) not in self.functions:
                continue
            for value in (*call.args, *(keyword.value for keyword in call.keywords)):
                for item in value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]:
                    if isinstance(item, ast.Name):
                        found.add(item.id)
                    elif holds and isinstance(item, ast.Call) and isinstance(item.func, ast.Name):
                        found.add(item.func.id)
        return (found & set(self.modules)) | self._passed_as_variables()

    def _passed_as_variables(self) -> set[str]:
        """``encoder = Encoder(); model = Seq2Seq(encoder)``: Encoder is a part of Seq2Seq."""
        found: set[str] = set()
        for scope in ast.walk(self.source.tree):
            if not isinstance(scope, (ast.FunctionDef, ast.Module)):
                continue
            made: dict[str, str] = {}
            for node in _own_nodes(scope):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                    name = called_name(strip_moves(node.value))
                    if name in self.modules:
                        made.update({t.id: name for t in node.targets if isinstance(t, ast.Name)})
            for node in _own_nodes(scope):
                if isinstance(node, ast.Call) and self._makes_module(node):
                    for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                        if isinstance(value, ast.Name) and value.id in made and made[value.id] != called_name(node):
                            found.add(made[value.id])
        return found

    def code(self, name: str) -> str:
        """The source of a class, of its bases here and of all that they refer to."""
        family = {name} | self.bases(name)
        reached = family.union(*(self.reached_from(member) for member in family))
        return "\n".join(ast.unparse(self._nodes[member]) for member in sorted(reached))

    def _makes_module(self, call: ast.Call) -> bool:
        if called_name(call) in self.modules:
            return True
        return self.source.imports.resolve(call.func) in _CONTAINERS


_PLAIN_PACKAGES = frozenset(
    words("""
    math numpy typing collections functools itertools dataclasses enum abc copy os sys re random time logging
    warnings inspect operator string json contextlib pathlib einops scipy types typing_extensions jaxtyping
    torchvision.transforms argparse __future__ numbers gym gymnasium matplotlib pandas tqdm
    """)
)


def _top_level(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Statements of the module level, those inside ``if`` and ``try`` too."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from _top_level(node.body)
            yield from _top_level(node.orelse)
            for handler in getattr(node, "handlers", ()):
                yield from _top_level(handler.body)


def _own_nodes(scope: ast.AST) -> Iterable[ast.AST]:
    """Nodes of a scope, without those of functions and classes inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield child
            yield from _own_nodes(child)


def _references(node: ast.stmt) -> set[str]:
    """Names that a definition refers to, other than in annotations and as bases."""
    bare = _WithoutAnnotations().visit(ast.parse(ast.unparse(node)).body[0])
    touched = statement(bare)
    found = set(touched.uses | touched.later)
    if isinstance(bare, ast.ClassDef):
        found -= {base.id for base in bare.bases if isinstance(base, ast.Name)}
    return found


class _WithoutAnnotations(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return ast.Assign([node.target], node.value)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass", "super"):
            return ast.Constant(None)
        return self.generic_visit(node)


def _calls_own_argument(node: ast.stmt) -> bool:
    """A wrapper: its constructor is given what its forward calls (``self.fn = fn`` and ``self.fn(x)``)."""
    if not isinstance(node, ast.ClassDef):
        return False
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if "__init__" not in methods or "forward" not in methods:
        return False
    given = {argument.arg for argument in methods["__init__"].args.args[1:]}
    kept = {
        target.attr
        for item in ast.walk(methods["__init__"])
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Name) and item.value.id in given
        for target in item.targets
        if isinstance(target, ast.Attribute)
    }
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in kept
        for call in ast.walk(methods["forward"])
    )


def is_abstract(function: ast.FunctionDef) -> bool:
    """Whether a function's body only raises, passes or explains."""
    return all(
        isinstance(item, (ast.Raise, ast.Pass)) or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        for item in function.body
    )


def called_name(call: ast.expr) -> str:
    """``Net`` for ``Net(...)``; empty for anything but a call of a plain name."""
    return call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""


_MOVES = frozenset({"to", "cuda", "cpu", "train", "eval", "float", "requires_grad_", "share_memory", "compile"})


def strip_moves(expression: ast.expr) -> ast.expr:
    """``Net()`` for ``Net().to(device).eval()``."""
    while (
        isinstance(expression, ast.Call)
        and isinstance(expression.func, ast.Attribute)
        and expression.func.attr in _MOVES
    ):
        expression = expression.func.value
    return expression
