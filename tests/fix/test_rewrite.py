"""Each way that init is written in the wild, before and after."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initcheck.findings import Location, RewriteCall
from initcheck.fix.apply import apply_edits
from initcheck.fix.errors import EditError

RELU = (("nonlinearity", '"relu"'),)


def place(text: str, marked: str) -> Location:
    """Where ``marked`` begins in ``text``."""
    before = text[: text.index(marked)]
    line = before.count("\n") + 1
    return Location("net.py", line, len(before) - (before.rfind("\n") + 1) + 1)


def rewrite(text: str, marked: str, function: str = "kaiming_normal_", arguments=RELU) -> str:
    return apply_edits(text, "net.py", [RewriteCall(place(text, marked), function, arguments)])


# (before, what the edit points at, after); the function is kaiming_normal_ with nonlinearity="relu".
CASES = {
    "nn.init": (
        "from torch import nn\nnn.init.xavier_normal_(m.weight)\n",
        "nn.init.x",
        'from torch import nn\nnn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "init": (
        "from torch.nn import init\ninit.normal_(m.weight, 0, 0.01)\n",
        "init.n",
        'from torch.nn import init\ninit.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "alias": (
        "import torch.nn.init as I\nI.normal_(tensor=m.weight, std=0.01)\n",
        "I.n",
        'import torch.nn.init as I\nI.kaiming_normal_(tensor=m.weight, nonlinearity="relu")\n',
    ),
    "torch": (
        "import torch as th\nth.nn.init.normal_(m.weight.data)\n",
        "th.nn",
        'import torch as th\nth.nn.init.kaiming_normal_(m.weight.data, nonlinearity="relu")\n',
    ),
    "bare, old name still used": (
        "from torch.nn.init import normal_, zeros_\nnormal_(a)\nnormal_(b)\n",
        "normal_(a)",
        "from torch.nn.init import normal_, zeros_, kaiming_normal_\n"
        'kaiming_normal_(a, nonlinearity="relu")\nnormal_(b)\n',
    ),
    "bare, old name unused": (
        "from torch.nn.init import normal_, zeros_\nnormal_(a)\n",
        "normal_(a)",
        'from torch.nn.init import kaiming_normal_, zeros_\nkaiming_normal_(a, nonlinearity="relu")\n',
    ),
    "bare, new name there": (
        "from torch.nn.init import kaiming_normal_ as kn, normal_\nnormal_(a)\n",
        "normal_(a)",
        'from torch.nn.init import kaiming_normal_ as kn\nkn(a, nonlinearity="relu")\n',
    ),
    "bare, import over lines": (
        "from torch.nn.init import (\n    normal_,\n)\n\n__all__ = ['normal_']\nnormal_(a)\n",
        "normal_(a)",
        "from torch.nn.init import (\n    normal_,\n    kaiming_normal_,\n)\n\n__all__ = ['normal_']\n"
        "kaiming_normal_(a, nonlinearity='relu')\n",
    ),
    "bare, imported in the function": (
        "def f(w):\n    from torch.nn.init import normal_\n    normal_(w)  # x\n",
        "normal_(w)",
        'def f(w):\n    from torch.nn.init import kaiming_normal_\n    kaiming_normal_(w, nonlinearity="relu")  # x\n',
    ),
    "star": (
        "from torch.nn.init import *\nnormal_(w, std=1)\n",
        "normal_(w",
        'from torch.nn.init import *\nkaiming_normal_(w, nonlinearity="relu")\n',
    ),
    "through a local alias": (
        "from torch import nn\nf = nn.init.normal_\nf(w)\n",
        "f(w)",
        'from torch import nn\nf = nn.init.normal_\nnn.init.kaiming_normal_(w, nonlinearity="relu")\n',
    ),
    "spaces of the file": (
        "from torch import nn\nnn.init.normal_( w,0.0,0.1 )\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_( w,nonlinearity="relu" )\n',
    ),
    "trailing comma, one line": (
        "from torch import nn\nnn.init.normal_(w, std=1.0,)\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(w, nonlinearity="relu",)\n',
    ),
    "comments over lines": (
        "from torch import nn\nnn.init.normal_(\n    w,  # the weight\n    0.0,  # centred\n    0.1,  # small\n)\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(\n    w,  # the weight\n    nonlinearity="relu",\n)\n',
    ),
    "a kept keyword keeps its comment": (
        'from torch import nn\nnn.init.kaiming_uniform_(\n    w,\n    nonlinearity="tanh",  # why\n    a=1,\n)\n',
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(\n    w,\n    nonlinearity="relu",  # why\n)\n',
    ),
    "one argument, hanging": (
        "from torch import nn\nnn.init.normal_(\n    w\n)\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(\n    w,\n    nonlinearity="relu"\n)\n',
    ),
    "aligned under the parenthesis": (
        "from torch import nn\nnn.init.normal_(w,\n                0.0,\n                0.1)\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(w, nonlinearity="relu")\n',
    ),
    "backslash and semicolon": (
        "from torch import nn\nx = 1; nn.init. \\\n    normal_(w); y = 2\n",
        "nn.init",
        'from torch import nn\nx = 1; nn.init. \\\n    kaiming_normal_(w, nonlinearity="relu"); y = 2\n',
    ),
    "parenthesised": (
        "from torch import nn\ny = (nn.init.normal_)((w))\n",
        "(nn.init",
        'from torch import nn\ny = (nn.init.kaiming_normal_)((w), nonlinearity="relu")\n',
    ),
    "generator": (
        "from torch import nn\nnn.init.normal_(w, 0, 1, generator=g)\n",
        "nn.init",
        'from torch import nn\nnn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)\n',
    ),
    "nested": (
        "from torch import nn\nlayer_init(nn.init.normal_(nn.init.zeros_(w)))\n",
        "nn.init.normal_",
        'from torch import nn\nlayer_init(nn.init.kaiming_normal_(nn.init.zeros_(w), nonlinearity="relu"))\n',
    ),
    "lambda": (
        "from torch import nn\nf = lambda m: nn.init.normal_(m.weight, std=.02)\n",
        "nn.init",
        'from torch import nn\nf = lambda m: nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "tensor method, data": (
        "from torch import nn\nm.weight.data.normal_(0, 0.01)\n",
        "m.weight",
        'from torch import nn\nnn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "tensor method, hand-written He": (
        "import math\nimport torch.nn as nn\nn = 9 * 64\nm.weight.data.normal_(0, math.sqrt(2. / n))\n",
        "m.weight",
        'import math\nimport torch.nn as nn\nn = 9 * 64\nnn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "tensor method, hand-written He in a loop": (
        "import math\nimport torch.nn as nn\ndef init(model):\n    for m in model.modules():\n"
        "        if isinstance(m, nn.Conv2d):\n            n = m.kernel_size[0] * m.out_channels\n"
        "            m.weight.data.normal_(0, math.sqrt(2. / n))\n",
        "m.weight.data",
        "import math\nimport torch.nn as nn\ndef init(model):\n    for m in model.modules():\n"
        "        if isinstance(m, nn.Conv2d):\n"
        '            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "hand-written fan": (
        "import math\nimport torch.nn as nn\ndef reset(self):\n    stdv = 1. / math.sqrt(self.weight.size(1))\n"
        "    self.weight.data.uniform_(-stdv, stdv)\n",
        "self.weight.data",
        "import math\nimport torch.nn as nn\ndef reset(self):\n"
        '    nn.init.kaiming_normal_(self.weight, nonlinearity="relu")\n',
    ),
    "an assignment that is read elsewhere stays": (
        "import torch.nn as nn\ndef init(m):\n    n = m.out_channels\n    m.weight.data.normal_(0, n)\n    return n\n",
        "m.weight.data",
        "import torch.nn as nn\ndef init(m):\n    n = m.out_channels\n"
        '    nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n    return n\n',
    ),
    "an assignment with a call, or a comment, stays": (
        "import torch.nn as nn\ndef init(m):\n    n = draw()\n    k = 2  # why\n    m.weight.data.normal_(n, k)\n",
        "m.weight.data",
        "import torch.nn as nn\ndef init(m):\n    n = draw()\n    k = 2  # why\n"
        '    nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "tensor method, no argument": (
        "import torch\nself.fc[0].weight.uniform_()\n",
        "self.fc",
        'import torch\ntorch.nn.init.kaiming_normal_(self.fc[0].weight, nonlinearity="relu")\n',
    ),
    "tensor method, nothing imported": (
        '"""Doc."""\nimport os\n\n\ndef f(m):\n    m.weight.data.normal_(0, 1)\n',
        "m.weight",
        '"""Doc."""\nimport os\nfrom torch import nn\n\n\ndef f(m):\n'
        '    nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "tensor method, the name nn is taken": (
        "from flax import linen as nn\nimport torch.optim\nm.weight.data.normal_(0, 1)\n",
        "m.weight",
        "from flax import linen as nn\nimport torch.optim\n"
        'torch.nn.init.kaiming_normal_(m.weight, nonlinearity="relu")\n',
    ),
    "factory": (
        "import torch\nfrom torch import nn\nw = nn.Parameter(torch.zeros(3, 4, device=d))\n",
        "torch.zeros",
        "import torch\nfrom torch import nn\n"
        'w = nn.Parameter(nn.init.kaiming_normal_(torch.empty(3, 4, device=d), nonlinearity="relu"))\n',
    ),
    "factory, full": (
        "import torch\nw = torch.full((3, 4), 0.5)\n",
        "torch.full",
        'import torch\nw = torch.nn.init.kaiming_normal_(torch.empty((3, 4)), nonlinearity="relu")\n',
    ),
    "not ASCII, tabs": (
        "from torch import nn\ndef ä():\n\té = 'ü'; nn.init.normal_(é)  # ß\n",
        "nn.init",
        "from torch import nn\ndef ä():\n\té = 'ü'; nn.init.kaiming_normal_(é, nonlinearity='relu')  # ß\n",
    ),
}


@pytest.mark.parametrize(("before", "marked", "after"), CASES.values(), ids=CASES)
def test_before_and_after(before, marked, after):
    assert rewrite(before, marked) == after


@pytest.mark.parametrize(("before", "marked", "after"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_endings_are_kept(before, marked, after, newline):
    edit = RewriteCall(place(before, marked), "kaiming_normal_", RELU)
    assert apply_edits(before.replace("\n", newline), "net.py", [edit]) == after.replace("\n", newline)


RENAMES = {
    "call": (
        "from torch import nn\nnn.init.normal(w, 0,\n  1)\n",
        "nn.init",
        "from torch import nn\nnn.init.normal_(w, 0,\n  1)\n",
    ),
    "reference": (
        "from torch import nn\nf = nn.init.normal\n",
        "nn.init",
        "from torch import nn\nf = nn.init.normal_\n",
    ),
    "in partial": (
        "from torch import nn\nf = partial(nn.init.normal, std=1)\n",
        "nn.init",
        "from torch import nn\nf = partial(nn.init.normal_, std=1)\n",
    ),
    "default argument": (
        "from torch.nn import init\ndef f(init_fn=init.normal): pass\n",
        "init.normal",
        "from torch.nn import init\ndef f(init_fn=init.normal_): pass\n",
    ),
    "bare reference": (
        "from torch.nn.init import normal\nfs = [normal, normal]\n",
        "normal, normal]",
        "from torch.nn.init import normal, normal_\nfs = [normal_, normal]\n",
    ),
    "import": (
        "from torch.nn.init import normal, eye\nnormal(w)\nf = normal\n",
        "normal, eye",
        "from torch.nn.init import normal_, eye\nnormal_(w)\nf = normal_\n",
    ),
    "import as": (
        "from torch.nn.init import normal as n\nn(w)\n",
        "normal as",
        "from torch.nn.init import normal_ as n\nn(w)\n",
    ),
}


@pytest.mark.parametrize(("before", "marked", "after"), RENAMES.values(), ids=RENAMES)
def test_renaming(before, marked, after):
    assert rewrite(before, marked, "normal_", None) == after


@pytest.mark.parametrize(
    ("text", "location", "reason"),
    [
        ("x = 1\n", Location("net.py", 1), "no init call"),
        ("f(w)\n", Location("net.py", 1, 1), "no init call"),
        ("from torch.nn.init import *\nnormal_(a); zeros_(b)\n", Location("net.py", 2), "2 init calls"),
        ("from torch.nn.init import *\nnormal_(*args)\n", Location("net.py", 2), "target is not written"),
        ("from torch.nn.init import *\nnormal_(w, **kwargs)\n", Location("net.py", 2), "unpacked"),
        ("from torch import nn\nf = nn.init.normal_\n", Location("net.py", 2), "passed on by name"),
        ("import torch\nw = torch.Tensor([0.5])\n", Location("net.py", 2), "made from data"),
        ("from torch.nn.init import *\nnormal_(a)\n", Location("other.py", 2), "another file"),
    ],
)
def test_what_cannot_be_rewritten_is_refused_with_a_reason(text, location, reason):
    with pytest.raises(EditError, match=reason):
        apply_edits(text, "net.py", [RewriteCall(location, "kaiming_normal_", RELU)])


def test_a_helper_keeps_the_parameters_that_its_callers_give():
    """``layer_init(layer, std=0.01)`` would be ignored if the helper no longer read ``std``."""
    text = "from torch import nn\ndef layer_init(layer, std=1.4):\n    nn.init.orthogonal_(layer.weight, std)\n"
    edit = RewriteCall(Location("net.py", 3), "kaiming_normal_", RELU)
    with pytest.raises(EditError, match="parameter std of layer_init would be without effect"):
        apply_edits(text, "net.py", [edit])
    assert "kaiming" in apply_edits(text + "    print(std)\n", "net.py", [edit])


def test_a_line_without_columns_is_enough_if_one_call_stands_there():
    """Python 3.10 knows only the line of a frame."""
    text = "from torch import nn\nfor m in ms:\n    if m: nn.init.normal_(m.weight, f(1))\n"
    assert 'kaiming_normal_(m.weight, nonlinearity="relu")' in apply_edits(
        text, "net.py", [RewriteCall(Location("net.py", 3), "kaiming_normal_", RELU)]
    )


def test_an_exact_range_tells_nested_calls_apart():
    text = "import torch\nw = torch.empty(2).normal_(0, 1).uniform_(0, 1)\n"
    inner = "torch.empty(2).normal_(0, 1)"
    edit = RewriteCall(Location("net.py", 2, 5, 2, 5 + len(inner)), "kaiming_normal_", RELU)
    after = 'import torch\nw = torch.nn.init.kaiming_normal_(torch.empty(2), nonlinearity="relu").uniform_(0, 1)\n'
    assert apply_edits(text, "net.py", [edit]) == after


def test_the_range_of_the_function_will_do():
    text = "from torch import nn\nx = nn.init.normal(w).fill_(0)\n"
    edit = RewriteCall(Location("net.py", 2, 5, 2, 5 + len("nn.init.normal")), "normal_", None)
    assert apply_edits(text, "net.py", [edit]) == text.replace("normal(", "normal_(")


def test_edits_inside_each_other_are_both_made_and_equal_ones_once():
    text = "from torch import nn\nx = nn.init.normal_(nn.init.normal(w))\n"
    inner = RewriteCall(place(text, "nn.init.normal(w"), "normal_", None)
    outer = RewriteCall(place(text, "nn.init.normal_"), "kaiming_normal_", RELU)
    after = 'from torch import nn\nx = nn.init.kaiming_normal_(nn.init.normal_(w), nonlinearity="relu")\n'
    assert apply_edits(text, "net.py", [outer, inner, inner]) == after
    assert apply_edits(text, "net.py", [inner, outer]) == after


def test_edits_that_contradict_each_other_are_refused():
    text = "from torch import nn\nnn.init.normal_(w)\n"
    where = place(text, "nn.init")
    with pytest.raises(EditError, match="another fix makes this call kaiming_normal_"):
        apply_edits(
            text,
            "net.py",
            [RewriteCall(where, "kaiming_normal_", RELU), RewriteCall(where, "xavier_normal_", ())],
        )


def test_no_edits_no_change():
    assert apply_edits("x = 1", "net.py", []) == "x = 1"


def test_values_take_the_names_and_quotes_of_the_file():
    text = "import torch.nn as tnn\nx = 'a'\ntnn.init.normal_(w)\n"
    out = rewrite(text, "tnn.init", "xavier_uniform_", (("gain", 'nn.init.calculate_gain("tanh")'),))
    assert out.endswith("tnn.init.xavier_uniform_(w, gain=tnn.init.calculate_gain('tanh'))\n")
    out = rewrite(text, "tnn.init", "normal_", (("std", "math.sqrt(2 / 3)"),))
    assert "import math\n" in out
    assert out.endswith("tnn.init.normal_(w, std=math.sqrt(2 / 3))\n")


PIECES = [
    "x = 1\n",
    "\n",
    "   \n\t\n",
    "\x0c\n",
    "# a comment, ünïcode\n",
    "def f( a , b ):\n\treturn {  'k' : a }\n",
    'text = """nn.init.normal_(w)\n  # noqa\n"""\n',
    "y = [1,\n  2 ,]  \n",
    "class A : pass\n",
    "if x :\n        y = 2 ; z = 3\n",
    "@dec\ndef g(*, a=1, **k): ...\n",
    "s = f'{x!r:>{10}}' \\\n   'b'\n",
    "with a as b, c as d: pass\n",
]
CALLS = ["nn.init.normal_(w, 0, 1)", "nn.init.zeros_(w)", "w.data.uniform_(-1, 1)", "f(nn.init.eye_( w ), 3)"]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(PIECES)),
    st.sampled_from(CALLS),
    st.lists(st.sampled_from(PIECES)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_every_other_byte_stays(before, call, after, newline, final_newline):
    text = "from torch import nn\n" + "".join(before) + call + "\n" + "".join(after)
    text = text if final_newline else text.rstrip("\n")
    line = 2 + "".join(before).count("\n")
    result = apply_edits(
        text.replace("\n", newline), "net.py", [RewriteCall(Location("net.py", line), "kaiming_normal_", RELU)]
    )
    lines = text.replace("\n", newline).split(newline)
    new = result.split(newline)
    assert len(new) == len(lines)
    assert [a for i, a in enumerate(new) if i != line - 1] == [a for i, a in enumerate(lines) if i != line - 1]
    quote = "'" if text.count("'") > text.count('"') - 6 * text.count('"""') else '"'
    assert new[line - 1].replace(quote, '"').count("nn.init.kaiming_normal_(") == 1


def test_the_result_runs():
    torch = pytest.importorskip("torch")
    text = textwrap.dedent(
        """\
        import math
        import torch
        from torch import nn
        torch.manual_seed(0)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(16, 32, 3)
                n = 9 * 32
                self.conv.weight.data.normal_(0, math.sqrt(2. / n))
                self.mix = nn.Parameter(torch.zeros(200, 100))
        """
    )
    for marked in ("self.conv.weight.data", "torch.zeros"):
        text = rewrite(text, marked)
    names: dict = {}
    exec(text, names)
    net = names["Net"]()
    assert float(net.conv.weight.detach().std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)
    assert float(net.mix.detach().std()) == pytest.approx((2 / 100) ** 0.5, rel=0.1)
    assert isinstance(net.mix, torch.nn.Parameter)
