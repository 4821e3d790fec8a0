"""What a survey lists, what encloses it, and which functions it leaves unwalked."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from initcheck.rules.source_index import init_writes
from initcheck.source.file import SourceFile
from initcheck.source.nodes import children
from initcheck.source.statements import assignments
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


def surveyed(text):
    return Survey(ast.parse(text), text)


def called(found):
    return {ast.unparse(call.func) for call, _ in found.calls}


def names(functions):
    return [getattr(f, "name", "lambda") for f in functions]


def test_every_call_and_what_encloses_it():
    found = {
        ast.unparse(call.func): (names(place.classes), names(place.functions), len(place.guards))
        for call, place in surveyed(TEXT).whole.calls
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
    survey = Survey(tree, TEXT).whole
    owner = tree.body[1]
    assert [ast.unparse(a) for a in assignments(owner)] == ["self.fc = nn.Linear(width, 1)"]
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
    survey = surveyed("x = " + " + ".join("f(1)" for _ in range(900)))
    assert len(survey.whole.calls) == 900


def test_a_function_is_walked_only_if_its_text_holds_a_match():
    survey = surveyed(TEXT)
    assert called(survey.outside) == set()
    assert called(survey.near(re.compile("fourth"))) == {"decorated", "fourth"}
    assert called(survey.near(re.compile("decorated"))) == {"decorated", "fourth"}
    assert called(survey.near(re.compile("class"))) == set()
    assert names(survey.functions_near(re.compile("third"), re.compile("pairs"))) == ["__init__"]


def test_a_long_table_is_left_out_too():
    survey = surveyed("short = f()\nlong = {\n    1: g(),\n    2: h(),\n}\n")
    assert called(survey.outside) == {"f"}
    assert set(survey.top.bindings) == {"short", "long"}
    assert called(survey.near(re.compile("h"))) == {"f", "g", "h"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_as_python_counts_them(end):
    survey = surveyed(TEXT.replace("\n", end))
    assert called(survey.near(re.compile("fourth"))) == {"decorated", "fourth"}


def test_a_name_is_resolved_in_a_function_that_nobody_asked_for():
    source = SourceFile.parse("a.py", "import torch\ndef f():\n    import math as torch\n    return torch.pi\n")
    name = source.tree.body[1].body[1].value
    assert source.imports.resolve(name) == "math.pi"
    assert source.imports.is_bound("f")


ALIASES = {
    "method": "def f(m):\n    m.weight.data.normal_(0, 1)",
    "module": "import torch.nn.init as I\ndef f(m):\n    I.xavier_uniform(m.weight)",
    "import": "from torch.nn.init import xavier_uniform_ as fill\ndef f(m):\n    fill(m.weight)",
    "old name": "from torch.nn.init import (\n    uniform,\n    normal)\ndef f(m):\n    normal(m.weight)",
    "import inside": "def f(m):\n    from torch.nn.init import normal\n    normal(m.weight)",
    "star": "from torch.nn.init import *\ndef f(m):\n    normal(m.weight)",
    "assigned": "from torch import nn\nfill = nn.init.zeros_\nagain = fill\ndef f(m):\n    again(m.weight)",
    "assigned inside": "import torch\ndef f(m):\n    fill = torch.nn.init.constant\n    fill(m.weight, 0)",
    "closure": "import torch\ndef f():\n    fill = torch.nn.init.ones_\n    def g(m):\n        fill(m.weight)",
    "assigned later": "from torch import nn\ndef f(m):\n    fill(m.weight)\nfill = nn.init.eye",
    "of timm": "import torch\nfrom timm.layers import trunc_normal_ as t\ndef f(m):\n    t(m.weight)",
}


@pytest.mark.parametrize("text", ALIASES.values(), ids=list(ALIASES))
def test_init_calls_are_found_by_whatever_name(text):
    (write,) = init_writes(SourceFile.parse("a.py", text))
    assert write.key.endswith("weight")


def test_of_two_patterns_both_must_match_within_the_same_function():
    survey = surveyed("def f():\n    one()\n    two()\n\ndef g():\n    one()\n\ndef h():\n    two()\n")
    one, two = re.compile("one"), re.compile("two")
    assert [f.name for f, _ in survey.near((one, two)).functions] == ["f"]
    assert [f.name for f, _ in survey.near_both((one,), (two,)).functions] == ["f"]
    assert [f.name for f, _ in survey.near(one, two).functions] == ["f", "g", "h"]


def test_an_import_inside_a_function_is_looked_into_only_if_it_may_matter():
    text = (
        "def f():\n    import os\n    os.stat(x)\n\ndef g():\n    from torch.nn.init import ones_ as one\n    one(w)\n"
    )
    source = SourceFile.parse("m.py", text)
    assert [write.function for write in init_writes(source)] == ["ones_"]
    assert {f.name for f, _ in source.survey.near(*source.imports.mentions(("ones_",))).functions} == {"g"}


def test_children_are_those_of_ast_but_for_what_holds_nothing():
    empty = (ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop)
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8"))):
        assert children(node) == [child for child in ast.iter_child_nodes(node) if not isinstance(child, empty)]
