"""Source rules: what they find, at which line, and what they leave alone. No model is built here."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pages import blocks

from initcheck.findings import Severity
from initcheck.rules import registry
from initcheck.rules.ic803_init_raises import raised
from initcheck.source.file import SourceFile
from initcheck.source.survey import Survey

HEAD = "import math\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\nfrom torch.nn import init\n"
OFFSET = HEAD.count("\n")


def found(text: str) -> list[tuple[str, int]]:
    """(code, line of ``text``) of every finding in ``text``, which stands behind the usual imports."""
    source = SourceFile.parse("model.py", HEAD + textwrap.dedent(text).lstrip("\n"))
    findings, defects = registry.check_source(source)
    assert defects == []
    return sorted((f.code, f.location.line - OFFSET) for f in findings)


FOUND = {
    "IC801 call": ("nn.init.xavier_uniform(w)", [("IC801", 1)]),
    "IC801 through an alias of the module": ("init.kaiming_normal(w)", [("IC801", 1)]),
    "IC801 bare import": ("from torch.nn.init import orthogonal\northogonal(w)", [("IC801", 2)]),
    "IC801 renamed import": ("from torch.nn.init import normal as gauss\ngauss(w)", [("IC801", 2)]),
    "IC801 import alone": ("from torch.nn.init import sparse", [("IC801", 1)]),
    "IC801 reference": ("init_fn = nn.init.xavier_uniform\ninit_fn(w)", [("IC801", 1), ("IC801", 2)]),
    "IC801 in a table": ("TABLE = {'x': nn.init.xavier_normal, 'c': torch.nn.init.constant}", [("IC801", 1)] * 2),
    "IC803 truth of a bias": (
        """
        def f(m):
            if m.bias:
                nn.init.zeros_(m.bias)
        """,
        [("IC803", 2)],
    ),
    "IC803 truth of bias.data, in a condition of several": (
        """
        def f(m):
            if isinstance(m, nn.Linear) and m.bias.data:
                m.bias.data.zero_()
        """,
        [("IC803", 2)],
    ),
    "IC803 a module for a tensor, by isinstance": (
        """
        def f(m):
            if isinstance(m, (nn.Linear, nn.Conv2d)):
                nn.init.zeros_(m)
        """,
        [("IC803", 3)],
    ),
    "IC803 a module for a tensor, by assignment": (
        """
        class Net(nn.Module):
            def __init__(self):
                self.fc = nn.Linear(2, 2)
                nn.init.normal_(self.fc, std=0.02)
        """,
        [("IC803", 4)],
    ),
    "IC803 a fan of a bias": (
        """
        def f(m):
            if isinstance(m, nn.Conv2d):
                nn.init.xavier_uniform_(m.weight)
                nn.init.xavier_uniform_(m.bias)
        """,
        [("IC803", 4)],
    ),
    "IC803 a fan of a norm weight": (
        """
        def f(m):
            if isinstance(m, nn.BatchNorm2d):
                nn.init.kaiming_normal_(m.weight)
        """,
        [("IC803", 3)],
    ),
    "IC803 a bias that is not there": (
        """
        class Net(nn.Module):
            def __init__(self):
                self.fc = nn.Linear(2, 2, bias=False)
                nn.init.zeros_(self.fc.bias)
        """,
        [("IC803", 4)],
    ),
    "IC803 a class name that a wrapper has, too": (
        """
        def weights_init(m):
            classname = m.__class__.__name__
            if classname.find("Conv") != -1:
                m.weight.data.normal_(0.0, 0.02)

        class ConvBlock(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 3)

        net = ConvBlock()
        net.apply(weights_init)
        """,
        [("IC803", 3)],
    ),
    "IC803 a class name, written with in": (
        """
        class DoubleConv(nn.Sequential):
            pass

        def weights_init(m):
            if "Conv" in type(m).__name__:
                nn.init.normal_(m.weight, 0.0, 0.02)

        DoubleConv().apply(weights_init)
        """,
        [("IC803", 5)],
    ),
    "IC107 always true": (
        """
        for name, p in net.named_parameters():
            if "conv_list" or "header" in name:
                nn.init.normal_(p, std=0.01)
            else:
                nn.init.xavier_uniform_(p)
        """,
        [("IC107", 2)],
    ),
    "IC107 equality": (
        """
        for name, p in net.named_parameters():
            if name == "a" or "b":
                p.data.fill_(0)
        """,
        [("IC107", 2)],
    ),
    "IC107 a bare class": (
        """
        for m in net.modules():
            if isinstance(m, nn.Linear) or nn.Conv2d:
                nn.init.xavier_uniform_(m.weight)
            elif isinstance(m, nn.Embedding):
                nn.init.normal_(m.weight, std=0.02)
        """,
        [("IC107", 2)],
    ),
    "IC113 a clone": ("nn.init.normal_(self.fc.weight.data.clone(), std=0.02)", [("IC113", 1)]),
    "IC113 a tensor method on another dtype": ("m.weight.double().normal_(0, 0.02)", [("IC113", 1)]),
    "IC113 an index that is a list": ("nn.init.zeros_(self.fc.weight[[0, 2]])", [("IC113", 1)]),
    "IC103 copy and paste": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = nn.Conv2d(1, 1, 3)
                self.conv2 = nn.Conv2d(1, 1, 3)
                nn.init.xavier_normal_(self.conv1.weight)
                nn.init.xavier_normal_(self.conv1.weight)
        """,
        [("IC103", 7)],
    ),
    "IC802 a small std as the mean": ("nn.init.normal_(w, 0.02)", [("IC802", 1)]),
    "IC802 the same of a tensor method": ("w.data.normal_(0.01)", [("IC802", 1)]),
    "IC802 a gain as the mean": ("nn.init.normal_(w, nn.init.calculate_gain('relu'))", [("IC802", 1)]),
    "IC802 a gain as the slope": ("nn.init.kaiming_normal_(w, nn.init.calculate_gain('relu'))", [("IC802", 1)]),
    "IC802 sqrt(2) as the slope": ("nn.init.kaiming_normal_(w, a=math.sqrt(2))", [("IC802", 1)]),
    "IC802 a scaled slope": ("nn.init.kaiming_uniform_(w, a=math.sqrt(5) * self.scale_base)", [("IC802", 1)]),
    "IC802 a mode as the slope": ("nn.init.kaiming_normal_(w, 'fan_out')", [("IC802", 1)]),
    "IC802 a name as the gain": ("nn.init.xavier_uniform_(w, 'relu')", [("IC802", 1)]),
    "IC802 momentum as eps": ("bn = nn.BatchNorm2d(64, 0.8)", [("IC802", 1)]),
    "IC802 momentum as eps, under another name": (
        "def f():\n    Normed = nn.BatchNorm2d\n    return Normed(64, 0.8)",
        [("IC802", 3)],
    ),
    "IC802 a large eps": ("def f(**given):\n    return nn.LayerNorm(64, eps=1e-1, **given)", [("IC802", 2)]),
    "IC802 momentum as eps, by name": ("bn = nn.BatchNorm1d(64, momentum)", [("IC802", 1)]),
    "IC804": ("nn.init.trunc_normal_(w, mean=0.0, std=0.01, a=-2, b=2)", [("IC804", 1)]),
    "IC805": ("nn.init.kaiming_uniform_(w)\ny = torch.tanh(x)", [("IC805", 1)]),
    "IC301 a fan_in that is the fan-out": (
        """
        def hidden_init(layer):
            fan_in = layer.weight.data.size()[0]
            lim = 1. / math.sqrt(fan_in)
            return (-lim, lim)

        def reset(layer):
            layer.weight.data.uniform_(*hidden_init(layer))
        """,
        [("IC301", 2)],
    ),
    "IC104 written after weight_norm": (
        """
        from torch.nn.utils import weight_norm
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = weight_norm(nn.Conv1d(4, 4, 3))
                self.init_weights()

            def init_weights(self):
                self.conv1.weight.data.normal_(0, 0.01)
        """,
        [("IC104", 9)],
    ),
    "IC101 never written": (
        """
        class CRF(nn.Module):
            def __init__(self, num_tags):
                super().__init__()
                self.transitions = nn.Parameter(torch.Tensor(num_tags, num_tags))
                self.start = nn.Parameter(torch.empty(num_tags))

            def forward(self, x):
                return x + self.transitions.sum() + self.start
        """,
        [("IC101", 4), ("IC101", 5)],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_at_the_right_line(name: str) -> None:
    text, expected = FOUND[name]
    assert found(text) == sorted(expected)


FOUND |= {
    "IC105 the end of a name for a whole one": (
        """
        class Block(nn.Module):
            def __init__(self):
                self.c_proj = nn.Linear(4, 4)

        class Net(Base):
            def _init_weights(self, module):
                if isinstance(module, Base):
                    for name, p in module.named_parameters():
                        if name == "c_proj.weight":
                            nn.init.normal_(p, std=0.01)
        """,
        [("IC105", 9)],
    ),
    "IC305 torch.rand, scaled": (
        """
        class Spectral(nn.Module):
            def __init__(self, i, o, modes):
                self.weights1 = nn.Parameter(torch.rand(i, o, modes, dtype=torch.cfloat) / (i * o))
                self.weights2 = nn.Parameter(self.scale * torch.rand(i, o, modes, dtype=torch.cfloat))
        """,
        [("IC305", 3)],
    ),
    "IC704 zeroed from two places": (
        """
        class Lora(nn.Module):
            def __init__(self, r):
                self.a = nn.Linear(8, r, bias=False)
                self.b = nn.Linear(r, 8, bias=False)
                nn.init.kaiming_uniform_(self.a.weight, a=math.sqrt(5))
                nn.init.zeros_(self.b.weight)

            def forward(self, x):
                return self.b(self.a(x))

        def wrap():
            new = Lora(4)
            nn.init.zeros_(new.a.weight)
            return new
        """,
        [("IC704", 13)],
    ),
}

FOUND |= {
    "IC301 the fan-out of x @ W": (
        """
        class GraphConvolution(nn.Module):
            def __init__(self, i, o):
                self.weight = nn.Parameter(torch.FloatTensor(i, o))

            def reset_parameters(self):
                stdv = 1.0 / math.sqrt(self.weight.size(1))
                self.weight.data.uniform_(-stdv, stdv)

            def forward(self, x, adj):
                return torch.spmm(adj, torch.mm(x, self.weight))
        """,
        [("IC301", 6)],
    ),
    "IC106 apply in front of the layers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.apply(self._init)
                self.fc = nn.Linear(4, 4)

            def _init(self, m):
                if isinstance(m, nn.Linear):
                    nn.init.zeros_(m.bias)
                    nn.init.orthogonal_(m.weight)
        """,
        [("IC106", 4)],
    ),
    "IC106 a later loop that takes few layers, and tied weights": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.apply(self._init)
                self.wte = nn.Embedding(9, 4)
                self.c_proj = nn.Linear(4, 4)
                self.head = nn.Linear(4, 9)
                self.wte.weight = self.head.weight
                for name, p in self.named_parameters():
                    if name.endswith("c_proj.weight"):
                        nn.init.normal_(p, std=0.01)

            def _init(self, m):
                if isinstance(m, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(m.weight, std=0.02)
        """,
        [("IC106", 4)],
    ),
    "IC106 a return in the loop": (
        """
        def init(net):
            for m in net.modules():
                if isinstance(m, nn.Linear):
                    nn.init.orthogonal_(m.weight)
                    return
        """,
        [("IC106", 5)],
    ),
    "IC108 a loaded part of what is initialised": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = resnet50(pretrained=True)
                self.head = nn.Linear(4, 4)
                for m in self.modules():
                    if isinstance(m, nn.Conv2d):
                        nn.init.kaiming_normal_(m.weight)
        """,
        [("IC108", 6)],
    ),
    "IC108 layers by name, behind a strict load": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                self.load_state_dict(torch.load("weights.pt"))
                self.init_weights()

            def init_weights(self):
                nn.init.orthogonal_(self.fc.weight)
        """,
        [("IC108", 6)],
    ),
    "IC103 the weight of a layer whose bias is set": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens = nn.Embedding(9, 4)
                self.head = nn.Linear(4, 9)
                nn.init.uniform_(self.tokens.weight, -0.1, 0.1)
                nn.init.zeros_(self.head.bias)
                nn.init.uniform_(self.tokens.weight, -0.1, 0.1)
        """,
        [("IC103", 8)],
    ),
    "IC105 a class name with a slip of the pen": (
        """
        def init(m):
            classname = m.__class__.__name__
            if classname.find("Cnov") != -1:
                nn.init.orthogonal_(m.weight)
            elif "BtachNorm" in classname:
                nn.init.ones_(m.weight)
        """,
        [("IC105", 3), ("IC105", 5)],
    ),
    "IC106 a list that is filled later": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.apply(self._init)
                self.blocks = nn.ModuleList()
                for _ in range(4):
                    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
                    self.blocks.append(block)

            def _init(self, m):
                if isinstance(m, nn.Linear):
                    nn.init.normal_(m.weight, std=0.02)
        """,
        [("IC106", 4)],
    ),
    "IC301 a number of inputs": (
        """
        def init(m):
            num_input = m.weight.size(0)
            nn.init.uniform_(m.weight, -1 / num_input, 1 / num_input)
        """,
        [("IC301", 2)],
    ),
    "IC803 a module, as the statement beside it shows": (
        """
        def init(m):
            if "Norm" in m.__class__.__name__:
                nn.init.normal_(m, 1.0, 0.02)
                nn.init.zeros_(m.bias)
        """,
        [("IC803", 3)],
    ),
    "IC803 layers that a loop takes": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 4)
                self.b = nn.Linear(4, 4)
                for layer in (self.a, self.b):
                    nn.init.orthogonal_(layer)
        """,
        [("IC803", 7)],
    ),
    "IC803 the module itself": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = nn.Parameter(torch.zeros(4))
                nn.init.zeros_(self)
        """,
        [("IC803", 5)],
    ),
    "IC112 an argument that is never read": (
        """
        def init_linear(m, std=0.02):
            nn.init.normal_(m.weight, std=0.02)
        """,
        [("IC112", 1)],
    ),
    "IC112 a scheme that passes": (
        """
        def init_net(m, kind):
            if kind == "xavier":
                nn.init.xavier_normal_(m.weight)
            elif kind == "orthogonal":
                pass
        """,
        [("IC112", 5)],
    ),
}

QUIET = {
    "IC113 a conversion to the file's own dtype": """
        torch.set_default_dtype(torch.float64)
        m.weight.double().normal_(0, 0.02)
    """,
    "names that only look deprecated": "torch.normal(0, 1, (2,))\nimport numpy as np\nnp.random.normal(0, 1)",
    "a function of the user's own": "def xavier_uniform(w):\n    return w\nxavier_uniform(w)",
    "the present names": "nn.init.xavier_uniform_(w)\nnn.init.constant_(w, 0.5)\nnn.init.normal_(w, 1.0)",
    "a flag called bias": """
        class Net(nn.Module):
            def __init__(self, bias):
                self.bias = bias
                self.fc = nn.Linear(2, 2, bias=bias)
                if self.bias:
                    nn.init.zeros_(self.fc.bias)
        """,
    "bias is not None": "def f(m):\n    if m.bias is not None:\n        nn.init.zeros_(m.bias)",
    "a bias that may be there": """
        class Net(nn.Module):
            def __init__(self, bias):
                self.fc = nn.Linear(2, 2, bias=bias)
                if self.fc.bias is not None:
                    nn.init.zeros_(self.fc.bias)
        """,
    "dcgan: class names that match nothing of the file": """
        def weights_init(m):
            classname = m.__class__.__name__
            if classname.find("Conv") != -1:
                m.weight.data.normal_(0.0, 0.02)
            elif classname.find("BatchNorm") != -1:
                m.weight.data.normal_(1.0, 0.02)

        class Generator(nn.Module):
            pass

        Generator().apply(weights_init)
        """,
    "a wrapper behind hasattr": """
        def weights_init(m):
            if hasattr(m, "weight") and "Conv" in m.__class__.__name__:
                m.weight.data.normal_(0.0, 0.02)

        class ConvBlock(nn.Module):
            pass

        ConvBlock().apply(weights_init)
        """,
    "a subclass of a layer": """
        def weights_init(m):
            if "Conv" in m.__class__.__name__:
                m.weight.data.normal_(0.0, 0.02)

        class MyConv(nn.Conv2d):
            pass

        net = MyConv(1, 1, 1)
        net.apply(weights_init)
        """,
    "a view of the weight, a copy that is kept": """
        nn.init.normal_(self.fc.weight.data[:2], std=0.02)
        nn.init.normal_(self.fc.weight.detach().t(), std=0.02)
        nn.init.normal_(self.fc.weight.float(), std=0.02)
        start = nn.init.normal_(self.fc.weight.clone(), std=0.02)
        """,
    "two isinstance": "if isinstance(m, nn.Linear) or isinstance(m, nn.Conv2d):\n    nn.init.zeros_(m.bias)",
    "a default value by or": "name = name or 'conv'\nif name or flag:\n    nn.init.zeros_(w)",
    "two strings compared": "if 'a' in name or 'b' in name:\n    nn.init.zeros_(w)",
    "the same target in two branches": """
        class Net(nn.Module):
            def __init__(self, kind):
                self.a = nn.Linear(2, 2)
                self.b = nn.Linear(2, 2)
                if kind:
                    nn.init.xavier_uniform_(self.a.weight)
                else:
                    nn.init.orthogonal_(self.a.weight)
        """,
    "the same target twice, nothing forgotten": """
        class Net(nn.Module):
            def __init__(self):
                self.a = nn.Linear(2, 2)
                nn.init.xavier_uniform_(self.a.weight)
                nn.init.xavier_uniform_(self.a.weight)
        """,
    "the default of torch": "nn.init.kaiming_uniform_(w, a=math.sqrt(5))",
    "a slope of leaky ReLU": "nn.init.kaiming_normal_(w, 0.1)\nnn.init.kaiming_normal_(w, a=0.2, mode='fan_out')",
    "std by keyword": "nn.init.normal_(w, std=0.02)\nnn.init.normal_(w, 0.0, 0.02)\nnn.init.trunc_normal_(w, std=.02)",
    "batch norm around a mean of one": "m.weight.data.normal_(1.0, 0.02)",
    "usual eps": "nn.BatchNorm2d(64, eps=1e-3)\nnn.LayerNorm(64, 1e-6)\nnn.BatchNorm2d(64, 1e-5, 0.1)",
    "bounds at two std": "nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)",
    "kaiming in a net with ReLU and tanh": "nn.init.kaiming_normal_(w)\ny = torch.tanh(F.relu(x))",
    "kaiming with a nonlinearity": "nn.init.kaiming_normal_(w, nonlinearity='tanh')\ny = torch.tanh(x)",
    "a fan_in read off the second dimension": "fan_in = m.weight.size(1)\nm.weight.data.uniform_(-1/fan_in, 1/fan_in)",
    "torch.Tensor of data": """
        class ReZero(nn.Module):
            def __init__(self, values):
                self.resweight = nn.Parameter(torch.Tensor([0]))
                self.other = nn.Parameter(torch.Tensor(values))
        """,
    "torch.empty filled by a method": """
        class A(nn.Module):
            def __init__(self):
                self.weight = nn.Parameter(torch.empty(3, 3))

            def reset_parameters(self):
                nn.init.xavier_uniform_(self.weight)
        """,
    "torch.empty filled by a helper": """
        class A(nn.Module):
            def __init__(self):
                self.scale = nn.Parameter(torch.empty(3, 3))
                fill(self.scale)
        """,
    "torch.empty filled through data": """
        class A(nn.Module):
            def __init__(self):
                self.scale = nn.Parameter(torch.empty(3, 3))
                self.scale.data.normal_(0, 0.1)
                self.other = nn.Parameter(torch.empty(3))
                with torch.no_grad():
                    self.other[:] = 1.0
        """,
    "torch.empty filled by a loop": """
        class A(nn.Module):
            def __init__(self):
                self.scale = nn.Parameter(torch.empty(3, 3))
                for p in self.parameters():
                    nn.init.normal_(p)
        """,
    "torch.empty filled matrix by matrix": """
        class A(nn.Module):
            def __init__(self):
                self.experts = nn.Parameter(torch.empty(4, 3, 3))
                for matrix in self.experts:
                    nn.init.xavier_uniform_(matrix)
        """,
    "torch.empty for a checkpoint": """
        class A(nn.Module):
            def __init__(self):
                self.scale = nn.Parameter(torch.empty(3, 3))

        A().load_state_dict(torch.load("a.pt"))
        """,
    "written before weight_norm, and another layer after": """
        class Block(nn.Module):
            def __init__(self):
                self.other = nn.Conv1d(4, 4, 3)
                conv = nn.Conv1d(4, 4, 3)
                conv.weight.data.normal_(0, 0.01)
                self.conv = nn.utils.weight_norm(conv)
                self.other.weight.data.normal_(0, 0.01)
        """,
    "the old spectral_norm": """
        class Block(nn.Module):
            def __init__(self):
                self.conv = nn.utils.spectral_norm(nn.Conv1d(4, 4, 3))
                nn.init.xavier_uniform_(self.conv.weight)
        """,
    "a file without torch": "x = 1\n",
    "the whole name of an own parameter": """
        class Net(nn.Module):
            def __init__(self):
                self.c_proj = nn.Linear(4, 4)
                for name, p in self.named_parameters():
                    if name == "c_proj.weight":
                        nn.init.normal_(p, std=0.01)
        """,
    "names of an object whose class is not known": """
        class Block(nn.Module):
            def __init__(self):
                self.c_proj = nn.Linear(4, 4)

        def f(module):
            for name, p in module.named_parameters():
                if name == "c_proj.weight":
                    nn.init.normal_(p, std=0.01)
        """,
    "torch.rand that is centred, drawn again, or no weight": """
        class A(nn.Module):
            def __init__(self):
                self.weight1 = nn.Parameter(torch.rand(4, 4) - 0.5)
                self.weight2 = nn.Parameter(torch.rand(4, 4))
                self.pos_embedding = nn.Parameter(torch.rand(1, 4, 4))
                self.layer_scale_weight = nn.Parameter(torch.rand(4, 4))
                self.weight3 = nn.Parameter(torch.rand(4))
                nn.init.normal_(self.weight2)
        """,
    "a square matrix's own layout, and a linear layer's": """
        class A(nn.Module):
            def __init__(self, i, o):
                self.weight = nn.Parameter(torch.FloatTensor(o, i))
                bound = 1 / math.sqrt(self.weight.size(1))
                self.weight.data.uniform_(-bound, bound)

            def forward(self, x):
                return F.linear(x, self.weight)
        """,
    "layers attached later that are initialised on their own, or of another type": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                for m in self.modules():
                    if isinstance(m, nn.Linear):
                        nn.init.orthogonal_(m.weight)
                self.conv = nn.Conv2d(4, 4, 1)
                self.head = nn.Linear(4, 4)
                nn.init.zeros_(self.head.weight)
                self.tail = nn.Linear(4, 4)
                set_up(self.tail)
        """,
    "apply at the end, and one that initialises nothing": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.apply(print)
                self.fc = nn.Linear(4, 4)
                self.apply(self._init)

            def _init(self, m):
                if isinstance(m, nn.Linear):
                    nn.init.orthogonal_(m.weight)
        """,
    "init, then load; new layers only; one of two branches": """
        def init(m):
            nn.init.orthogonal_(m.weight)

        def f(net, path):
            net.apply(init)
            net.load_state_dict(torch.load(path))
            net.head.apply(init)
            if path:
                other = Net.from_pretrained(path)
            else:
                other = Net()
                other.apply(init)
            tokenizer = AutoTokenizer.from_pretrained(path)
            tokenizer.apply(init)
        """,
    "an init function for others to call": """
        class Net(nn.Module):
            def init_weights(self):
                nn.init.orthogonal_(self.fc.weight)
        """,
    "a framework's hook": """
        class Net(PreTrainedModel):
            def _init_weights(self, m):
                nn.init.orthogonal_(m.weight)

        net = Net()
        """,
    "a class in a framework's registry": """
        @BACKBONES.register_module()
        class Net(nn.Module):
            def init_weights(self, pretrained=None):
                nn.init.orthogonal_(self.fc.weight)

        net = Net()
        """,
    "arguments that are read, passed on, or no scale": """
        def init_linear(m, std=0.02, name=""):
            nn.init.normal_(m.weight, std=std)

        class Net(nn.Module):
            def __init__(self, std):
                init_linear(self.fc, std=std)
                self.std = std
                init_linear(self.head)
        """,
    "LoRA with one zero factor, and its reset": """
        class Lora(nn.Module):
            def __init__(self, r):
                self.a = nn.Linear(8, r, bias=False)
                self.b = nn.Linear(r, 8, bias=False)
                nn.init.zeros_(self.b.weight)

            def forward(self, x):
                return self.b(self.a(x))

        def wrap():
            new = Lora(4)
            nn.init.zeros_(new.b.weight)
            return new
        """,
    "IC108 a new head behind a strict load": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                self.load_state_dict(torch.load("weights.pt"))
                self.fc = nn.Linear(4, 9)
                self.init_weights()

            def init_weights(self):
                nn.init.orthogonal_(self.fc.weight)
        """,
    "IC108 a load that may leave layers out": """
        class Net(nn.Module):
            def __init__(self, state):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                self.load_state_dict(state, strict=False)
                self.init_weights()

            def init_weights(self):
                nn.init.orthogonal_(self.fc.weight)
        """,
    "IC108 a dictionary put together by hand": """
        class Net(nn.Module):
            def __init__(self, old):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                state = self.state_dict()
                state.update(old)
                self.load_state_dict(state)
                self.init_weights()

            def init_weights(self):
                nn.init.orthogonal_(self.fc.weight)
        """,
    "IC103 another scheme for the same weight, and torch's own for the head": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens = nn.Embedding(9, 4)
                self.head = nn.Linear(4, 9)
                nn.init.zeros_(self.tokens.weight)
                nn.init.zeros_(self.head.bias)
                nn.init.uniform_(self.tokens.weight, -0.1, 0.1)
        """,
    "IC105 class names of the user's own": """
        class Convs(nn.Module):
            pass

        def init(m):
            if m.__class__.__name__.find("Convs") != -1:
                nn.init.orthogonal_(m.weight)
            elif m.__class__.__name__.find("Linears") != -1:
                nn.init.orthogonal_(m.weight)
            elif "Gate" in m.__class__.__name__:
                nn.init.ones_(m.weight)
        """,
    "IC106 a list that is filled in time, or initialised on its own": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList()
                self.blocks.append(nn.Linear(4, 4))
                self.apply(self._init)
                self.more = nn.ModuleList()
                self.more.append(nn.Linear(4, 4))
                self.more.apply(self._init)

            def _init(self, m):
                if isinstance(m, nn.Linear):
                    nn.init.normal_(m.weight, std=0.02)
        """,
    "IC301 the inputs of the next layer": """
        def grow(first, second):
            in_features = first.weight.size(0)
            nn.init.normal_(second.weight, std=in_features**-0.5)
        """,
    "IC803 a tensor where the other branch has a module": """
        def init(x):
            if isinstance(x, nn.Module):
                nn.init.zeros_(x.weight)
            else:
                nn.init.zeros_(x)
        """,
    "IC803 parameters that a loop takes": """
        def init(net):
            for x in (net.weight, net.bias):
                nn.init.zeros_(x)
        """,
}


@pytest.mark.parametrize("name", QUIET)
def test_stays_quiet(name: str) -> None:
    assert found(QUIET[name]) == []


def test_severities() -> None:
    source = SourceFile.parse("m.py", HEAD + "nn.init.normal(w, 0.02)\nbn = nn.BatchNorm2d(64, 0.8)\n")
    by_code = {(f.code, f.location.line - OFFSET): f.severity for f in registry.check_source(source)[0]}
    assert by_code == {
        ("IC801", 1): Severity.WARNING,
        ("IC802", 1): Severity.ERROR,
        ("IC802", 2): Severity.WARNING,
    }


def test_messages_name_the_thing_and_the_remedy() -> None:
    source = SourceFile.parse("m.py", HEAD + "init.xavier_uniform(w)\nnn.init.normal_(w, 0.02)\n")
    findings, _ = registry.check_source(source)
    by_code = {f.code: f for f in findings}
    assert by_code["IC801"].suggestion == "init.xavier_uniform_"
    assert by_code["IC801"].fix is not None
    assert by_code["IC801"].fix.safe
    assert by_code["IC802"].suggestion == "normal_(mean=0.0, std=0.02)"
    assert "mean 0.02 and std 1" in by_code["IC802"].message
    for finding in findings:
        assert finding.message
        assert finding.location.end_line


UNCALLED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def init_weights(self):
        nn.init.orthogonal_(self.fc.weight)
"""


OWN = """
class Other({base}):
    def __init__(self, net):
        {use}

    def init_weights(self):
        pass
"""


@pytest.mark.parametrize(
    ("others", "script", "expected"),
    [
        ({}, "", []),
        ({}, "net = Net()\n", ["IC111"]),
        ({"README.md": "# a project\n", "train.py": "from net import Net\n"}, "", ["IC111"]),
        ({"README.md": "# a project\n", "sub/train.py": "from net import Net\nNet().init_weights()\n"}, "", []),
        ({"README.md": "call init_weights() first\n"}, "net = Net()\n", []),
        ({}, '"""init_weights says it all"""\nnet = Net()\n', ["IC111"]),
        ({}, UNCALLED.replace("Net", "Other") + "        self.init_weights()\nnet = Net()\n", ["IC111", "IC111"]),
        ({}, "class Sub(Net):\n    def start(self):\n        self.init_weights()\nnet = Sub()\n", []),
        ({"README.md": "", "b.py": OWN.format(base="Module", use="self.init_weights()")}, "", ["IC111"]),
        ({"README.md": "", "b.py": OWN.format(base="Net", use="self.init_weights()")}, "", []),
        ({"README.md": "", "b.py": OWN.format(base="Module", use="net.init_weights()")}, "", []),
    ],
    ids=[
        "lone file",
        "script",
        "project without a call",
        "called from another folder",
        "named in the README",
        "named in a docstring",
        "a class of its own name calls itself only",
        "a subclass calls it",
        "another file has its own",
        "another file derives from it",
        "another file calls it",
    ],
)
def test_init_functions_are_looked_for_in_the_project(
    others: dict[str, str], script: str, expected: list[str], tmp_path: Path
) -> None:
    for name, text in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    source = SourceFile.parse(str(tmp_path / "net.py"), HEAD + UNCALLED + script)
    assert [f.code for f in registry.check_source(source)[0]] == expected


def test_an_init_call_that_a_constructor_trips_over_is_named() -> None:
    text = "from torch import nn\n\n\ndef f(layer):\n    nn.init.orthogonal_(layer)\n\n\ndef g():\n    [].nothing\n"
    source = SourceFile.parse("net.py", text)
    names: dict[str, Any] = {}
    exec(compile(text, "net.py", "exec"), names)
    with pytest.raises(AttributeError) as caught:
        names["f"](names["nn"].Linear(2, 2))
    found = raised(source, "Net", caught.value)
    assert found is not None
    assert (found.code, found.location.line, found.model) == ("IC803", 5, "Net")
    with pytest.raises(AttributeError) as caught:
        names["g"]()
    assert raised(source, "Net", caught.value) is None


def test_functions_left_unwalked_hold_no_finding(monkeypatch):
    """Rules look into those functions only whose text holds what they look for: no finding may be lost by it."""
    fences = [b.text for kind in ("bad", "good") for b in blocks(kind) if b.code != "IC001"]
    cases = [HEAD + textwrap.dedent(text if isinstance(text, str) else text[0]) for text in FOUND.values()]
    torch_files = [path.read_text() for path in sorted((Path(torch.__file__).parent / "nn" / "modules").glob("*.py"))]

    def every() -> list[list[str]]:
        sources = [SourceFile.parse("model.py", text) for text in (*fences, *cases, *torch_files)]
        return [sorted(map(repr, registry.check_source(source)[0])) for source in sources]

    some = every()
    monkeypatch.setattr(Survey, "near", lambda survey, *_: survey.whole)
    monkeypatch.setattr(Survey, "functions_near", lambda survey, *_: {f for f, _ in survey.whole.functions})
    assert some == every()
