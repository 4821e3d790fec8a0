import textwrap

import pytest

from initcheck.source.file import SourceFile

CAN = {
    "module": "from torch import nn\nclass Net(nn.Module):\n    pass",
    "alias": "import torch.nn as foo\nclass Net(foo.Sequential):\n    pass",
    "sequential": "from torch import nn\nnet = nn.Sequential(nn.Linear(2, 3))",
    "factory": "import torch\ndef make():\n    return torch.nn.Linear(2, 3)",
    "timm": "import timm\nmodel = timm.create_model('resnet18')",
    "transformers": "from transformers import GPT2Config, GPT2LMHeadModel\n",
    "lightning": "import lightning as L\nclass Net(L.LightningModule):\n    pass",
    "own base": "from .base import Base\nclass Net(Base):\n    def forward(self, x):\n        return x",
    "unknown star": "from models import *\nclass Net(Base):\n    def forward(self, x):\n        return x",
    "train script": "import torch\nfrom model import GPT\nmodel = GPT()",
    "generic": "from typing import Generic\nfrom torch import nn\nclass Net(nn.Module, Generic[T]):\n    pass",
}
CANNOT = {
    "empty": "",
    "plain": "import os\nclass A:\n    pass",
    "plain subclass": "from collections import OrderedDict\nclass A(OrderedDict):\n    def f(self): pass",
    "flax": "import jax\nfrom flax import linen as nn\nclass Net(nn.Module):\n    pass",
    "dataset": "import torch\nimport numpy as np\nfrom torch.utils.data import Dataset\nclass A(Dataset):\n    pass",
    "tensor code": "import torch\nimport torch.nn.functional as F\ndef f(x):\n    return F.relu(torch.exp(x))",
    "pydantic": "from pydantic import BaseModel\nclass User(BaseModel):\n    name: str",
    "app": "from .base import BaseModel\nclass User(BaseModel):\n    name: str",
    "losses": "import torch\nfrom torch import nn\ncriterion = nn.CrossEntropyLoss()",
}


def mentions(text: str, path: str = "net.py") -> bool:
    return SourceFile.parse(path, textwrap.dedent(text)).mentions_modules()


@pytest.mark.parametrize("text", CAN.values(), ids=CAN)
def test_files_that_can_hold_models(text):
    assert mentions(text)


@pytest.mark.parametrize("text", CANNOT.values(), ids=CANNOT)
def test_files_that_cannot(text):
    assert not mentions(text)


def test_a_test_file_counts_only_if_it_defines_a_module():
    assert not mentions("import torch\nfrom net import Net\ndef test_it():\n    Net()", "tests/test_net.py")
    assert mentions("from torch import nn\nclass Net(nn.Module):\n    pass", "tests/test_net.py")
