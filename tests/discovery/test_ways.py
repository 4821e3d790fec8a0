"""One model for each way in which files say how a model is built, and what it is fed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from files import found, run, write

from initcheck.config import InputSpec
from initcheck.discovery.conventions import by_name

HEAD = """
    import argparse, dataclasses, sys
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width, depth):
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))

        def forward(self, x):
            return self.layers(x)
"""

WAYS = {
    "argparse": """
        parser = argparse.ArgumentParser()
        parser.add_argument("data", help="required, and never given here")
        parser.add_argument("--width", type=int, default=24)
        args = parser.parse_args()
        if args.data is None:
            sys.exit("no data")
        net = Net(args.width, 3)
    """,
    "a test function": """
        def test():
            net = Net(24, 3)
            print(net(torch.randn(1, 24)).shape)
    """,
    "a __main__ block": """
        if __name__ == "__main__":
            width = 24
            net = Net(width, depth=3)
            for epoch in range(1000):
                net(torch.randn(4, width)).sum().backward()
    """,
    "a loop that trains": """
        def main():
            for fold in range(5):
                net = Net(24, 3)
                net(torch.randn(4, 24)).sum().backward()
    """,
    "a factory": """
        def net_small(pretrained=False, **options):
            return Net(24, 3, **options)
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_file_says_how(tmp_path: Path, way: str) -> None:
    result = run(write(tmp_path, "net.py", HEAD, WAYS[way]), "Net")
    assert [tuple(p.shape) for p in result.model.parameters() if p.dim() == 2] == [(24, 24)] * 3
    assert "made up" not in result.candidate.how
    assert result.inputs.args[0].shape[-1] == 24
    assert result.inputs.args[0].shape[0] > 1, "statistics over a batch of one mean nothing"


CONFIGURED = {
    "dataclass": """
        @dataclasses.dataclass
        class NetConfig:
            width: int = 24
            depth: int = 3
    """,
    "pydantic": """
        from pydantic import BaseModel

        class NetConfig(BaseModel):
            width: int = 24
            depth: int = 3
    """,
    "plain class": """
        class NetConfig:
            def __init__(self, width=24, depth=3):
                self.width, self.depth = width, depth
    """,
}


@pytest.mark.parametrize("kind", CONFIGURED)
def test_a_configuration_class_with_defaults(tmp_path: Path, kind: str) -> None:
    if kind == "pydantic":
        pytest.importorskip("pydantic")
    net = """
        class Net(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.layers = nn.Sequential(*(nn.Linear(config.width, config.width) for _ in range(config.depth)))

            def forward(self, x):
                return self.layers(x)
    """
    imports = "import dataclasses\nimport torch\nfrom torch import nn\n"
    path = write(tmp_path, "net.py", imports, CONFIGURED[kind], net)
    assert len([p for p in run(path, "Net").model.parameters() if tuple(p.shape) == (24, 24)]) == 3


def test_the_readme_says_how(tmp_path: Path) -> None:
    """The README of a package is where its models are shown; blocks of other languages are passed over."""
    write(tmp_path, "setup.py", "")
    write(tmp_path, "pkg/__init__.py", "")
    path = write(tmp_path, "pkg/net.py", HEAD)
    write(
        tmp_path,
        "README.md",
        """
        ```bash
        pip install pkg
        ```

        ```python
        import torch
        from pkg.net import Net

        net = Net(width=24, depth=3)
        net(torch.randn(2, 7, 24))  # (2, 7, 24)
        ```
        """,
    )
    result = run(path)
    assert result.candidate.how == "Net(width=24, depth=3) (line 10) in README.md"
    assert result.inputs.args[0].shape[1:] == (7, 24)


def test_a_construction_of_another_folder_s_model_of_that_name(tmp_path: Path) -> None:
    """``from models import Net`` means the ``models.py`` beside it."""
    path = write(tmp_path, "one/models.py", HEAD)
    write(tmp_path, "two/models.py", HEAD)
    write(tmp_path, "two/train.py", "from models import Net\nnet = Net(24, 3)\n")
    assert "train.py" not in run(path).candidate.how


def test_transformers_models_are_built_from_their_configuration_class(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "modeling_tiny.py",
        """
        from torch import nn
        from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

        class TinyConfig(PreTrainedConfig):
            model_type = "tiny-for-a-test"

            def __init__(self, width=24, **kwargs):
                super().__init__(**kwargs)
                self.width = width

        class TinyModel(PreTrainedModel):
            config_class = TinyConfig

            def __init__(self, config):
                super().__init__(config)
                self.layer = nn.Linear(config.width, config.width)

            def forward(self, hidden_states):
                return self.layer(hidden_states)

        AutoConfig.register("tiny-for-a-test", TinyConfig)
        AutoModel.register(TinyConfig, TinyModel)
        """,
    )
    assert run(path, "TinyModel").model.layer.weight.shape == (24, 24)


def test_timm_s_registered_entrypoints(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "vit_odd.py",
        """
        from torch import nn
        from timm.models import register_model

        class OddNet(nn.Module):
            def __init__(self, width, num_classes=10):
                super().__init__()
                self.stem = nn.Conv2d(3, width, 7)
                self.default_cfg = {"input_size": (3, 40, 40)}
                self.head = nn.Linear(width * 34 * 34, num_classes)

            def forward(self, x):
                return self.head(self.stem(x).flatten(1))

        @register_model
        def odd_net_tiny(pretrained=False, **kwargs):
            return OddNet(width=6, **kwargs)
        """,
    )
    result = run(path, "OddNet")
    assert result.candidate.how == "odd_net_tiny()"
    assert result.inputs.description == "float32[8,3,40,40]"


FED = {
    "example_input_array": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(5, 6, 7))
                self.example_input_array = torch.randn(1, 5, 6)

            def forward(self, x):
                return torch.einsum("bij,ijk->bk", x, self.weight)
        """,
        "float32[8,5,6]",
    ),
    "dummy_inputs": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(99, 8)

            @property
            def dummy_inputs(self):
                return {"ids": torch.tensor([[1, 2, 3]])}

            def forward(self, ids=None):
                return self.table(ids)
        """,
        "ids=int64[8,16]<99",
    ),
    "jaxtyping": (
        """
        from jaxtyping import Float, Int
        from torch import Tensor

        class Net(nn.Module):
            def __init__(self, n_mels=20):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(n_mels, 6))

            def forward(self, mel: Float[Tensor, "batch n_mels time"], speaker: Int[Tensor, "batch"]):
                return torch.einsum("bnt,nd->btd", mel, self.weight) + speaker[:, None, None]
        """,
        "float32[8,20,16], int64[8]<2",
    ),
    "docstring": (
        '''
        class Net(nn.Module):
            def __init__(self, n_mels=20):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(n_mels, 6))

            def forward(self, mel, gate):
                """Encode.

                Args:
                    mel (torch.Tensor): a spectrogram of shape (B, n_mels, T)
                    gate: (B, 6), one per feature
                """
                return torch.einsum("bnt,nd->btd", mel, self.weight) * gate[:, None]
        ''',
        "float32[8,20,16], float32[8,6]",
    ),
    "a shape error": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
                self.fc = nn.Linear(400, 10)

            def forward(self, x):
                x = nn.functional.max_pool2d(self.conv1(x), 2)
                return self.fc(nn.functional.max_pool2d(self.conv2(x), 2).flatten(1))
        """,
        "float32[8,1,32,32]",
    ),
    "an assertion": (
        """
        class Net(nn.Module):
            def __init__(self, steps=12):
                super().__init__()
                self.steps, self.rnn = steps, nn.GRU(4, 8, batch_first=True)

            def forward(self, x):
                assert x.shape[1] == self.steps, "wrong length"
                return self.rnn(x)[0]
        """,
        "float32[8,12,4]",
    ),
    "a named shape": (
        """
        image_shape = (3, 20, 20)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3 * 20 * 20, 4)

            def forward(self, image):
                assert image.dim() == 4
                return self.layer(image.flatten(1))
        """,
        "float32[8,3,20,20]",
    ),
    "two images in one": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.up, self.conv = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(32, 8, 3)

            def forward(self, low, skip):
                return self.conv(torch.cat([skip, self.up(low)], dim=1))
        """,
        None,
    ),
    "keyword arguments": (
        """
        class Net(nn.Module):
            def __init__(self, num_classes=10):
                super().__init__()
                self.conv, self.embed = nn.Conv2d(3, 8, 3), nn.Linear(num_classes, 8)

            def forward(self, image, **kwargs):
                return self.conv(image).mean((2, 3)) + self.embed(kwargs["labels"].float())
        """,
        "float32[8,3,32,32], labels=float32[8,10]",
    ),
}


@pytest.mark.parametrize("way", FED)
def test_what_says_the_inputs(tmp_path: Path, way: str) -> None:
    code, expected = FED[way]
    result = run(write(tmp_path, "net.py", "import torch\nfrom torch import nn\n", code), "Net")
    if expected is not None:
        assert result.inputs.description == expected
    result.model(*result.inputs.args, **result.inputs.kwargs)


def test_the_search_is_bounded(tmp_path: Path) -> None:
    from initcheck.discovery.inputs import MOST_TRIALS, InputsNotFound

    path = write(
        tmp_path,
        "net.py",
        """
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 8, 3)

            def forward(self, x):
                self.conv(x)
                raise ValueError(f"sizes {x.shape[1] + 1} and {x.shape[-1] + 1} are wrong")
        """,
    )
    with pytest.raises(InputsNotFound) as caught:
        run(path)
    assert 0 < len(caught.value.tried) <= MOST_TRIALS


def test_conventional_values_agree() -> None:
    """Made-up sizes must divide each other, or constructors refuse them."""
    for width in ("hidden_size", "d_model", "n_embd", "embed_dim", "dim"):
        assert by_name(width) % by_name("num_heads") == 0
    assert by_name("image_size") % by_name("patch_size") == 0


PROVIDED = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width, activation):
            super().__init__()
            self.layer, self.activation = nn.Linear(width, width), activation

        def forward(self, x, scale=None):
            return self.activation(self.layer(x))

    def initcheck_models():
        for width in (3, 4):
            yield Net(width, nn.Tanh()), f"float32[8,{width}]"
        yield Net(5, nn.ReLU()), {"x": torch.randn(9, 5), "scale": 2.0}
        yield nn.Sequential(nn.Linear(6, 2))
"""


def test_the_file_hands_its_models_over(tmp_path: Path) -> None:
    path = write(tmp_path, "net.py", PROVIDED)
    assert list(found(path)) == ["Net", "Net#2", "Net#3", "Sequential"]
    assert run(path, "Net#2").inputs.description == "float32[8,4]"
    assert run(path, "Net#2").candidate.how == "initcheck_models() (line 13)"
    third = run(path, "Net#3").inputs
    assert third.kwargs["x"].shape == (9, 5)
    assert third.kwargs["scale"] == 2.0
    assert run(path, "Sequential").inputs.args[0].shape[-1] == 6, "inputs are searched for where none are given"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yield 3", "must give models"),
        ("yield nn.Linear(2, 2), 'float31[2]'", "unknown dtype 'float31'"),
        ("raise RuntimeError('no licence')", "no licence"),
    ],
)
def test_what_a_file_hands_over_is_checked(tmp_path: Path, line: str, message: str) -> None:
    path = write(
        tmp_path, "net.py", f"from torch import nn\ndef initcheck_models():\n    {line}\n    yield nn.ReLU()\n"
    )
    with pytest.raises(Exception, match=message):
        run(path)


def test_example_ids_are_the_same_at_each_run(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "net.py",
        """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Embedding(500, 8), nn.Embedding(400, 8)

            def forward(self, ids):
                return self.a(ids) + self.b(ids)

        ids = torch.randint(0, 400, (8, 16))
        net = Net()
        net(ids)
        """,
    )
    first = run(path, "Net").inputs.description
    torch.manual_seed(99)
    assert run(path, "Net").inputs.description == first
    assert InputSpec.parse(first).high <= 400
