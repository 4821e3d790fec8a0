import ast
import textwrap

import pytest

from initcheck.source.file import SourceFile


def resolve_last(text: str) -> str | None:
    """What the function of the last call in ``text`` stands for."""
    source = SourceFile.parse("net.py", textwrap.dedent(text))
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    return source.imports.resolve(max(calls, key=lambda call: (call.lineno, call.col_offset)).func)


X = "torch.nn.init.xavier_uniform_"


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.nn.init.xavier_uniform_(w)",
        "import torch as th\nth.nn.init.xavier_uniform_(w)",
        "import torch.nn.init\ntorch.nn.init.xavier_uniform_(w)",
        "import torch.nn as nn\nnn.init.xavier_uniform_(w)",
        "import torch.nn.init as I\nI.xavier_uniform_(w)",
        "from torch import nn\nnn.init.xavier_uniform_(w)",
        "from torch.nn import init\ninit.xavier_uniform_(w)",
        "from torch.nn import init as I\nI.xavier_uniform_(w)",
        "from torch.nn.init import xavier_uniform_\nxavier_uniform_(w)",
        "from torch.nn.init import xavier_uniform_ as xu\nxu(w)",
        "from torch.nn.init import *\nxavier_uniform_(w)",
        "from torch.nn import *\ninit.xavier_uniform_(w)",
        "from torch import nn\nf = nn.init.xavier_uniform_\nf(w)",
        "from torch import nn\ninit = nn.init\nf = init.xavier_uniform_\ng = f\ng(w)",
        "def f():\n    from torch.nn import init\n    init.xavier_uniform_(w)",
        "class A:\n    def f(self):\n        import torch.nn.init as I\n        return lambda w: I.xavier_uniform_(w)",
        "try:\n    from torch.nn import init\nexcept ImportError:\n    init = None\ninit.xavier_uniform_(w)",
        "from torch import nn\n[nn.init.xavier_uniform_(m) for m in ms]",
        "import torch\nif a:\n    import torch\ntorch.nn.init.xavier_uniform_(w)",
        "import torch.nn as nn\ndef f(w):\n    global nn\n    nn.init.xavier_uniform_(w)",
    ],
)
def test_every_way_to_name_a_function(text):
    assert resolve_last(text) == X


@pytest.mark.parametrize(
    "text",
    [
        "init.xavier_uniform_(w)",
        "from flax import linen as nn\nf(w)",
        "from torch.nn import init\ndef f(init):\n    init.xavier_uniform_(w)",
        "from torch.nn import init\ndef f():\n    init = load()\n    init.xavier_uniform_(w)",
        "from torch.nn import init\nfor init in range(3):\n    init.xavier_uniform_(w)",
        "def f():\n    from torch.nn import init\ndef g():\n    init.xavier_uniform_(w)",
        "class A:\n    from torch.nn import init\n    def f(self):\n        init.xavier_uniform_(w)",
        "f = g\ng = f\nf(w)",
        "from torch import nn\nf = nn.init.xavier_uniform_\nf = nn.init.zeros_\nf(w)",
        "from torch import nn\nf = partial(nn.init.xavier_uniform_)\nf(w)",
        "from torch import nn\nmatch x:\n    case nn:\n        nn.init.zeros_(w)",
        "from torch import nn\nwith open(x) as nn:\n    nn.init.zeros_(w)",
        "from torch.nn.init import *\nmy_own_(w)",
    ],
)
def test_what_is_not_known_is_not_guessed(text):
    assert resolve_last(text) is None


def test_other_libraries_keep_their_names():
    assert resolve_last("from flax import linen as nn\nnn.Dense(3)") == "flax.linen.Dense"
    assert resolve_last("from .layers import Conv\nConv(3)") == ".layers.Conv"
    assert resolve_last("from . import layers\nlayers.Conv(3)") == ".layers.Conv"


def test_modules_are_known_by_their_public_names():
    assert resolve_last("from torch.nn.modules.conv import Conv2d\nConv2d(1, 2, 3)") == "torch.nn.Conv2d"
    assert resolve_last("from torch.nn.parameter import Parameter\nParameter(w)") == "torch.nn.Parameter"


def test_spelling_prefers_the_most_exact_import():
    def spell(text: str, name: str) -> str | None:
        return SourceFile.parse("net.py", text).imports.spell(name)

    zeros = "torch.nn.init.zeros_"
    assert spell("import torch", zeros) == "torch.nn.init.zeros_"
    assert spell("import torch\nfrom torch import nn", zeros) == "nn.init.zeros_"
    assert spell("from torch import nn\nfrom torch.nn import init as I", zeros) == "I.zeros_"
    assert spell("from torch.nn.init import zeros_ as z", zeros) == "z"
    assert spell("import numpy", zeros) is None
    assert spell("from torch import nn\nnn = 3", zeros) is None


def test_spelling_sees_the_scope():
    text = "from torch.nn import init\nfrom torch import nn\ndef f(init):\n    init(1)\n"
    source = SourceFile.parse("net.py", text)
    inside = next(node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    assert source.imports.spell("torch.nn.init.zeros_", inside) == "nn.init.zeros_"


def test_the_known_names_of_torch_are_all_of_them():
    import torch

    from initcheck.source.torch_names import DEPRECATED_INITIALISERS, INITIALISERS, MODULES

    known = {*INITIALISERS, *DEPRECATED_INITIALISERS, "calculate_gain"}
    assert known == set(torch.nn.init.__all__)
    real = {name for name, value in vars(torch.nn).items() if isinstance(value, type)}
    assert {name for name in MODULES if name in real or hasattr(torch.nn, name)} == set(MODULES)


def test_names_bound_to_one_another_are_given_up_at_once() -> None:
    """Eight bindings of ``x`` to attributes of ``x`` would be followed 8^20 times."""
    rebound = "\n".join(f"x = x.part{i}" for i in range(8))
    assert resolve_last(f"import torch\nx = torch.nn\n{rebound}\nx.init(w)") is None
