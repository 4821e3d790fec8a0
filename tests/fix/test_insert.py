"""Where a missing init is written, and how."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initcheck.findings import InitStatement, InsertInit, Location
from initcheck.fix.apply import apply_edits
from initcheck.fix.errors import EditError

WEIGHT = InitStatement("module.weight", "kaiming_normal_", (("nonlinearity", '"relu"'),))
BIAS = InitStatement("module.bias", "zeros_")


def loop(text: str, name: str = "Net", types=("nn.Linear",), statements=(WEIGHT,), line: int = 0) -> str:
    text = textwrap.dedent(text)
    line = line or next((i for i, t in enumerate(text.splitlines(), 1) if f"class {name}" in t), 1)
    return apply_edits(text, "net.py", [InsertInit(Location("net.py", line), name, statements, types)])


def added(text: str, **options) -> str:
    """Only what stands between the lines that were there."""
    before = textwrap.dedent(text).splitlines()
    after = loop(text, **options).splitlines()
    for line in before:
        assert line in after
    rest = list(after)
    for line in before:
        rest.remove(line)
    return "\n".join(rest)


NET = textwrap.dedent(
    """\
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(x)
    """
)


def test_a_loop_after_the_last_layer():
    assert loop(NET) == textwrap.dedent(
        """\
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(3, 4)

                for module in self.modules():
                    if isinstance(module, nn.Linear):
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

            def forward(self, x):
                return self.fc(x)
        """
    )


def test_several_types_and_a_bias_that_may_be_missing():
    new = added(NET, types=("nn.Linear", "nn.Conv2d"), statements=(WEIGHT, BIAS))
    assert "isinstance(module, (nn.Linear, nn.Conv2d)):" in new
    assert new.splitlines()[-2:] == [
        "                if module.bias is not None:",
        "                    nn.init.zeros_(module.bias)",
    ]


def test_statements_as_they_stand():
    statements = (InitStatement("self.fc.weight", "xavier_uniform_"), InitStatement("self.fc.bias", "zeros_"))
    assert added(NET, types=(), statements=statements).splitlines() == [
        "        nn.init.xavier_uniform_(self.fc.weight)",
        "        nn.init.zeros_(self.fc.bias)",
    ]


@pytest.mark.parametrize(
    "tail",
    [
        "return",
        "self.apply(init_weights)",
        "self.apply(self._init_weights)",
        "self.init_weights()",
        "self.reset_parameters()",
        "self.post_init()",
        "nn.init.zeros_(self.fc.bias)",
        "nn.init.zeros(self.fc.bias)",
        "self.fc.bias.data.zero_()",
        "for m in self.modules():\n    nn.init.zeros_(m.bias)",
        "for n, p in self.named_parameters():\n    if n == 'x':\n        nn.init.zeros_(p)",
        "with torch.no_grad():\n    self.fc.bias.fill_(0)",
        "if pretrained:\n    self.load_state_dict(torch.load(path))",
        "print('parameters', self.count())",
        "self.apply(f)\nprint('done')\nreturn",
    ],
)
def test_what_finishes_the_object_stays_last(tail):
    text = NET.replace("nn.Linear(3, 4)\n", "nn.Linear(3, 4)\n" + textwrap.indent(tail, "        ") + "\n")
    after = loop(text)
    assert after.index("kaiming_normal_") < after.index(tail.splitlines()[0], after.index("nn.Linear(3"))
    compile(after, "net.py", "exec")


@pytest.mark.parametrize(
    "last",
    [
        "self.head = nn.Linear(4, 2)",
        "self.layers.append(nn.Linear(4, 2))",
        "self.add_module('head', nn.Linear(4, 2))",
        "self.build()",
        "if deep:\n    self.head = nn.Linear(4, 2)\nelse:\n    self.head = None",
        "for i in range(3):\n    self.layers.append(nn.Linear(4, 4))",
        "with torch.device('cpu'):\n    self.head = nn.Linear(4, 2)",
        "try:\n    self.head = nn.Linear(4, 2)\nfinally:\n    pass",
        "if pretrained:\n    self.load_state_dict(x)\nelse:\n    self.head = nn.Linear(4, 2)",
    ],
)
def test_it_stands_after_whatever_can_add_a_layer(last):
    text = NET.replace("nn.Linear(3, 4)\n", "nn.Linear(3, 4)\n" + textwrap.indent(last, "        ") + "\n")
    after = loop(text)
    assert after.index("kaiming_normal_") > after.index(last.splitlines()[-1].strip())
    compile(after, "net.py", "exec")


def test_a_class_without_init_gets_one_before_its_first_method():
    text = """\
        from torch import nn
        class Net(Base):
            '''Doc.'''
            size = 3
            def forward(self, x):
                return x
        """
    assert loop(text) == textwrap.dedent(
        """\
        from torch import nn
        class Net(Base):
            '''Doc.'''
            size = 3

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                for module in self.modules():
                    if isinstance(module, nn.Linear):
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

            def forward(self, x):
                return x
        """
    )


@pytest.mark.parametrize("body", ["pass", "    pass", "'''Doc.'''", "x = 1; y = 2  # why"])
def test_bodies_on_one_line(body):
    text = f"from torch import nn\nclass Net(Base): {body.strip()}\n"
    if body.startswith(" "):
        text = f"from torch import nn\nclass Net(Base):\n{body}\n"
    after = loop(text)
    compile(after, "net.py", "exec")
    assert "pass" not in after
    assert after.count("def __init__") == 1


def test_an_init_that_only_passes():
    after = loop("from torch import nn\nclass Net(Base):\n    def __init__(self): pass\n")
    assert "pass" not in after
    compile(after, "net.py", "exec")


def test_tabs_two_spaces_and_crlf():
    tabs = "from torch import nn\nclass Net(Base):\n\tdef __init__(self):\n\t\tself.fc = nn.Linear(1, 2)\n"
    assert "\n\t\t\t\tnn.init.kaiming_normal_(" in loop(tabs)
    two = tabs.replace("\t", "  ")
    assert "\n        nn.init.kaiming_normal_(" in loop(two)
    mixed = "class A:\n    x = 1\n" + tabs
    assert "\n\t\tfor module" in loop(mixed, line=4)
    assert "\n\t\t\tif" in loop(mixed, line=4)
    crlf = apply_edits(
        tabs.replace("\n", "\r\n"), "net.py", [InsertInit(Location("net.py", 2), "Net", (WEIGHT,), ("nn.Linear",))]
    )
    assert crlf == loop(tabs).replace("\n", "\r\n")


def test_the_names_and_quotes_of_the_file():
    after = loop(NET.replace("from torch import nn", "import torch as th\nx = 'a'").replace("nn.", "th.nn."))
    assert "isinstance(module, th.nn.Linear)" in after
    assert "th.nn.init.kaiming_normal_(module.weight, nonlinearity='relu')" in after
    assert "import nn" not in after


def test_an_import_is_added_where_there_is_none():
    text = '"""Doc."""\nfrom __future__ import annotations\n\nclass Net(Base):\n    pass\n'
    assert loop(text).startswith(
        '"""Doc."""\nfrom __future__ import annotations\n\nfrom torch import nn\n\nclass Net(Base):\n'
    )
    assert loop("class Net(Base):\n    pass\n").startswith("from torch import nn\n\n\nclass Net")
    assert loop("import os\nimport torch.optim\nimport sys\n\nclass Net(Base): pass\n").startswith(
        "import os\nimport torch.optim\nimport sys"
    )


def test_a_shadowed_name_is_not_used():
    after = loop(
        NET.replace("def __init__(self)", "def __init__(self, nn)").replace(
            "import nn", "import nn\nfrom torch.nn import init, Linear"
        )
    )
    assert "init.kaiming_normal_(module.weight" in after
    assert "isinstance(module, Linear)" in after


def test_another_self_and_a_taken_loop_variable():
    text = NET.replace("(self)", "(this, module)").replace("self.fc =", "this.fc =")
    new = added(text, statements=(WEIGHT,))
    assert "for layer in this.modules():" in new
    assert "layer.weight" in new
    statement = InitStatement("self.fc.weight", "zeros_")
    assert "zeros_(this.fc.weight)" in added(text, types=(), statements=(statement,))


def test_the_right_class():
    text = """\
        from torch import nn
        class Outer(nn.Module):
            class Net(nn.Module):
                def __init__(self):
                    self.inner = nn.Linear(1, 2)
            def __init__(self):
                self.outer = nn.Linear(1, 2)
        @decorated(
            Net=1)
        class Net(nn.Module):
            def __init__(self):
                self.last = nn.Linear(1, 2)
        """
    assert loop(text, "Outer.Net", line=1).index("kaiming") < loop(text, "Outer.Net", line=1).index("self.outer")
    assert loop(text, "Net", line=8).index("kaiming") > loop(text, "Net", line=8).index("self.last")
    assert loop(text, "Net", line=10) == loop(text, "Net", line=8) == loop(text, "Net", line=1)
    after = loop(text, "Outer", line=2)
    assert after.index("self.outer") < after.index("kaiming") < after.index("@decorated")


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("x = 1\n", "Net", "no class Net"),
        ("class Net(B):\n    def __init__(): pass\n", "Net", "names no self"),
        ("nn = 1\ninit = 2\ntorch_nn = 3\nclass Net(B): pass\n", "Net", "no free name"),
    ],
)
def test_refused_with_a_reason(text, name, reason):
    with pytest.raises(EditError, match=reason):
        loop(text, name)


def test_two_insertions_that_disagree_are_refused():
    text = NET
    one = InsertInit(Location("net.py", 3), "Net", (WEIGHT,), ("nn.Linear",))
    two = InsertInit(Location("net.py", 3), "Net", (InitStatement("module.weight", "zeros_"),), ("nn.Linear",))
    with pytest.raises(EditError, match=r"another fix initialises module\.weight differently"):
        apply_edits(text, "net.py", [one, two])


# -- behind an assignment --------------------------------------------------------------------------------------------

MODEL = textwrap.dedent(
    """\
    from torch import nn

    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.ReLU(),
    )
    module = 1
    """
)


def behind(text: str, line: int, types=("nn.Linear",), statements=(WEIGHT,)) -> str:
    return apply_edits(text, "net.py", [InsertInit(Location("net.py", line), "", statements, types)])


def test_a_loop_right_behind_the_assignment_of_a_model():
    assert behind(MODEL, 3) == MODEL.replace(
        "\n)\n",
        """
)
for layer in model.modules():
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
""",
    )


def test_statements_behind_an_assignment_within_a_block():
    text = "from torch import nn\nif True:\n    net = nn.Sequential(nn.Linear(3, 4))\n"
    statement = InitStatement("self[0].weight", "orthogonal_")
    assert behind(text, 3, (), (statement,)) == f"{text}    nn.init.orthogonal_(net[0].weight)\n"


def test_in_front_of_a_return_that_makes_the_model():
    text = "from torch import nn\ndef make(model):\n    return nn.Sequential(*f(model))  # all\n"
    edit = InsertInit(Location("net.py", 3, 5, 3, 36), "", (WEIGHT,), ("nn.Linear",))
    assert apply_edits(text, "net.py", [edit]) == textwrap.dedent(
        """\
        from torch import nn
        def make(model):
            net = nn.Sequential(*f(model))  # all
            for module in net.modules():
                if isinstance(module, nn.Linear):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            return net
        """
    )


@pytest.mark.parametrize(
    "text",
    ["x = 1\n", "\n\nmodel = nn.ReLU()\nmodel = nn.ReLU()\n", "\n\na = b = f()\n", "\n\nx: int = 3\n"],
)
def test_without_the_one_variable_that_holds_the_model_it_is_refused(text):
    with pytest.raises(EditError, match="no variable holds the model"):
        behind(text, 3)


def test_a_loop_over_the_copies_of_a_layer():
    edit = InsertInit(Location("net.py", 3), "Net", (WEIGHT,), over="self.layers[1:]")
    after = apply_edits(NET, "net.py", [edit])
    loop_text = """
        for module in self.layers[1:]:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
"""
    assert loop_text in after


def test_what_must_have_the_last_word_stands_behind_other_init_and_before_loading():
    text = NET.replace(
        "nn.Linear(3, 4)\n",
        "nn.Linear(3, 4)\n        self.apply(init)\n        for m in self.modules():\n            init(m)\n"
        "        if weights:\n            self.load_state_dict(weights)\n",
    )
    edit = InsertInit(Location("net.py", 3), "Net", (InitStatement("self.fc.weight", "zeros_"),), last=True)
    after = apply_edits(text, "net.py", [edit]).splitlines()
    at = after.index("        nn.init.zeros_(self.fc.weight)")
    assert after[at - 1] == "            init(m)"
    assert after[at + 1] == "        if weights:"


LINES = [
    "self.a = nn.Linear(1, 2)",
    "x = 3  # é",
    "",
    "# comment",
    "self.b = [\n  1 ,\n    2]",
    "self.apply(f)",
    "if x: pass",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(LINES)), st.sampled_from(["    ", "  ", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_no_line_is_lost_or_changed(lines, indent, newline):
    body = "\n".join(indent * 2 + part if part else "" for line in lines for part in line.split("\n"))
    text = f"from torch import nn\nclass Net(B):\n{indent}def __init__(self):\n{indent * 2}x = 0\n{body}\n\n\nx = 1\n"
    text = text.replace("\n", newline)
    edit = InsertInit(Location("net.py", 2), "Net", (WEIGHT, BIAS), ("nn.Linear",))
    after = apply_edits(text, "net.py", [edit])
    compile(after, "net.py", "exec")
    kept = iter(after.split(newline))
    assert all(line in kept for line in text.split(newline))  # in order
    assert after.count("\r") == (after.count("\n") if newline == "\r\n" else 0)


def test_the_result_runs():
    pytest.importorskip("torch")
    names: dict = {}
    exec(loop(NET.replace("nn.Linear(3, 4)", "nn.Linear(200, 400, bias=False)"), statements=(WEIGHT, BIAS)), names)
    assert float(names["Net"]().fc.weight.detach().std()) == pytest.approx(0.1, rel=0.05)
