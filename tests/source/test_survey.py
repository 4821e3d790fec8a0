"""The one walk over a file: what it lists, and what encloses it."""

from __future__ import annotations

import ast

from initcheck.source.survey import Survey

TEXT = """
import torch.nn as nn

class Net(nn.Module):
    def __init__(self, width=compute()):
        self.fc = nn.Linear(width, 1)
        if width > 1:
            first(self.fc)
        else:
            second(lambda w: third(w))
        for a, (b, *c) in pairs():
            pass

    @decorated(1)
    def forward(self, x):
        return [fourth(y) for y in x]
"""


def names(functions):
    return [getattr(f, "name", "lambda") for f in functions]


def test_every_call_and_what_encloses_it():
    survey = Survey(ast.parse(TEXT))
    found = {
        ast.unparse(call.func): (names(place.classes), names(place.functions), len(place.guards))
        for call, place in survey.calls
    }
    assert found == {
        "compute": (["Net"], ["__init__"], 0),
        "nn.Linear": (["Net"], ["__init__"], 0),
        "first": (["Net"], ["__init__"], 1),
        "second": (["Net"], ["__init__"], 0),
        "third": (["Net"], ["__init__", "lambda"], 0),
        "pairs": (["Net"], ["__init__"], 0),
        "decorated": (["Net"], ["forward"], 0),
        "fourth": (["Net"], ["forward"], 0),
    }


def test_lists_and_scopes():
    tree = ast.parse(TEXT)
    survey = Survey(tree)
    owner = tree.body[1]
    assert [ast.unparse(a) for a in survey.assigns_in(owner)] == ["self.fc = nn.Linear(width, 1)"]
    assert [node.name for node, _ in survey.functions] == ["__init__", "forward"]
    constructor = next(place.scope for call, place in survey.calls if ast.unparse(call.func) == "first")
    assert set(constructor.bindings) == {"self", "width", "a", "b", "c"}
    assert [ast.unparse(node) for node in survey.references if isinstance(node, ast.Attribute)] == [
        "nn.Module",
        "self.fc",
        "nn.Linear",
        "self.fc",
    ]


def test_a_deep_expression_is_no_recursion():
    tree = ast.parse("x = " + " + ".join("f(1)" for _ in range(900)))
    assert len(Survey(tree).calls) == 900
