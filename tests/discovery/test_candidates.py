"""Root models of a file, and how each is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from files import found, write

from initcheck.config import Config, ModelSpec
from initcheck.discovery.candidates import ConstructionError
from initcheck.tracing.build import BuildError, build


def test_blocks_are_no_models(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        import torch
        from torch import nn

        class Activation(nn.Module):
            def forward(self, x):
                return torch.relu(x)

        class Block(nn.Module):
            expansion = 1
            def __init__(self, width):
                super().__init__()
                self.fc = nn.Linear(width, width)

        class Head(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc = nn.Linear(width, 2)

        def make_head(width):
            return Head(width)

        class Net(nn.Module):
            def __init__(self, block, depth):
                super().__init__()
                self.blocks = nn.Sequential(*[block(8) for _ in range(depth)])
                self.head = make_head(8)
            def forward(self, x):
                return self.head(self.blocks(x))

        class Loss(nn.Module):
            def __init__(self):
                super().__init__()
                self.mse = nn.MSELoss()

        def small():
            return Net(Block, 2)

        def large():
            return Net(Block, 20)
        """,
    )
    candidates = found(path)
    assert list(candidates) == ["Net"]
    model = candidates["Net"].construct()
    assert candidates["Net"].how == "small()"
    assert len(model.blocks) == 2


def test_the_construction_that_also_initialises_is_preferred(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "script.py",
        """
        import argparse
        import torch
        from torch import nn
        import torch.optim as optim

        def weights_init(m):
            if isinstance(m, nn.Linear):
                nn.init.constant_(m.weight, 0.25)

        class Net(nn.Module):
            def __init__(self, width=3):
                super().__init__()
                self.fc = nn.Linear(width, width)
            def forward(self, x):
                return self.fc(x)

        def test():
            return Net()(torch.randn(2, 3))

        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--width", type=int, default=6)
            args = parser.parse_args()
            data = open("/nowhere/data.bin").read()
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            net = Net(args.width).to(device)
            net.apply(weights_init)
            optimizer = optim.SGD(net.parameters(), lr=0.1)
            for x in data:
                net(x).sum().backward()

        if __name__ == "__main__":
            main()
        """,
    )
    candidate = found(path)["Net"]
    model = candidate.construct()
    assert model.fc.weight.shape == (6, 6)
    assert torch.equal(model.fc.weight, torch.full((6, 6), 0.25))
    assert candidate.how.startswith("Net(args.width); net.apply(weights_init) (line 27, in main)")


def test_weights_are_drawn_anew_at_each_construction(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "script.py",
        "from torch import nn\nencoder = nn.Linear(3, 3)\nmodel = nn.Sequential(encoder, nn.ReLU())\n",
    )
    candidates = found(path)
    assert list(candidates) == ["model"]
    one, other = candidates["model"].construct(), candidates["model"].construct()
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("net = Net(dataset.width)", 64),  # the parameter's name says what it may be
        ("net = Net(len(dataset.words))", 64),
        ("net = Net(args.hidden)", 12),
        ("net = Net(input_size=settings['w'])", 9),
    ],
)
def test_arguments_that_cannot_be_had_are_made_up(tmp_path: Path, line: str, width: int) -> None:
    path = write(
        tmp_path,
        "script.py",
        f"""
        from types import SimpleNamespace
        from torch import nn
        from torchvision import datasets

        class Net(nn.Module):
            def __init__(self, input_size):
                super().__init__()
                self.fc = nn.Linear(input_size, 2)
            def forward(self, x):
                return self.fc(x)

        args = SimpleNamespace(hidden=12)
        settings = dict(w=9)
        dataset = datasets.MNIST("data", download=True)
        {line}
        """,
    )
    candidate = found(path)["Net"]
    assert candidate.construct().fc.in_features == width
    assert ("made up: input_size=64" in candidate.how) == (width == 64)


def test_arguments_by_annotation_default_and_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from dataclasses import dataclass
        from torch import nn

        @dataclass
        class ModelConfig:
            vocab_size: int = 50
            dim: int = 8

        class Decoder(nn.Module):
            def __init__(self, config: ModelConfig):
                super().__init__()
                self.fc = nn.Linear(config.dim, config.vocab_size)
            def forward(self, x):
                return self.fc(x)

        class Encoder(nn.Module):
            def __init__(self, d_model, nhead, num_layers, rnn_type, sizes, norm_layer, dropout=0.5):
                super().__init__()
                assert d_model % nhead == 0
                if rnn_type not in ("LSTM", "GRU"):
                    raise ValueError("rnn_type must be LSTM or GRU")
                self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
                self.norm = norm_layer(d_model)
            def forward(self, x):
                return x
        """,
    )
    candidates = found(path)
    assert candidates["Decoder"].construct().fc.out_features == 50
    assert candidates["Decoder"].how == "Decoder(config=ModelConfig())"
    candidates["Encoder"].construct()
    assert "made up from their names" in candidates["Encoder"].how


def test_a_reinforcement_learner_gets_an_environment(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "ppo.py",
        """
        import gymnasium_not_here as gym
        import numpy as np
        from torch import nn

        class Agent(nn.Module):
            def __init__(self, envs):
                super().__init__()
                self.actor = nn.Linear(np.array(envs.single_observation_space.shape).prod(), envs.single_action_space.n)
            def get_action_and_value(self, x):
                return self.actor(x)

        if __name__ == "__main__":
            envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")])
            agent = Agent(envs).to("cuda")
        """,
    )
    candidate = found(path)["Agent"]
    model = candidate.construct()
    assert (model.actor.in_features, model.actor.out_features) == (4, 2)
    assert "run by get_action_and_value()" in candidate.how
    assert model(torch.randn(3, 4)).shape == (3, 2)


def test_different_models_of_one_class_at_module_level(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "experiment.py",
        """
        from torch import nn

        class MLP(nn.Module):
            def __init__(self, std):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                nn.init.normal_(self.fc.weight, std=std)
            def forward(self, x):
                return self.fc(x)

        small = MLP(0.01)
        large = MLP(1.0)
        again = MLP(1.0)
        """,
    )
    candidates = found(path)
    assert list(candidates) == ["small", "large"]
    assert candidates["small"].location.line == 12
    assert candidates["small"].construct().fc.weight.abs().max() < 0.1


def test_an_init_function_that_raises_is_not_passed_over(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from torch import nn

        def init_weights(m):
            if isinstance(m, nn.Linear):
                if m.bias:
                    m.bias.data.zero_()

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
            def forward(self, x):
                return self.fc(x)

        def build():
            net = Net()
            net.apply(init_weights)
            return net
        """,
    )
    with pytest.raises(ConstructionError, match=r"RuntimeError: Boolean value of Tensor .*, at model\.py:6"):
        found(path)["Net"].construct()


def test_a_constructor_that_raises_says_why_and_where(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)
                raise ValueError("no such thing")
        """,
    )
    with pytest.raises(BuildError) as caught:
        build(found(path)["Net"].construct)
    assert "ValueError: no such thing, at model.py:8" in str(caught.value.__cause__)


def test_the_configuration_comes_first(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from torch import nn

        class Net(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc = nn.Linear(width, 2)
            def forward(self, x):
                return self.fc(x)

        class Other(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)
            def forward(self, x):
                return self.fc(x)
        """,
    )
    spec = ModelSpec(str(path), "Net", kwargs={"width": 3})
    candidates = found(path, Config(models=(spec,)))
    assert set(candidates) == {"Net", "Other"}
    assert candidates["Net"].construct().fc.in_features == 3
    assert candidates["Net"].how == "Net (configuration)"
    assert set(found(path, Config(models=(spec,), only_listed_models=True))) == {"Net"}


def test_another_file_of_the_project_says_how(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "densenet.py",
        """
        from torch import nn

        class DenseNet(nn.Module):
            def __init__(self, growth, reduction, odd_name):
                super().__init__()
                self.fc = nn.Linear(int(growth * reduction), odd_name)
            def forward(self, x):
                return self.fc(x)
        """,
    )
    write(
        tmp_path,
        "train.py",
        """
        import densenet

        def main():
            net = densenet.DenseNet(growth=12, reduction=0.5, odd_name=10)
            net.cuda()

        if __name__ == "__main__":
            main()
        """,
    )
    candidate = found(path)["DenseNet"]
    assert candidate.construct().fc.in_features == 6
    assert candidate.how.endswith("in main) in train.py")


def test_a_value_that_decides_the_initialisation_is_never_made_up(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "study.py",
        """
        from torch import nn

        def network(width=8):
            return nn.Sequential(nn.Linear(width, width), nn.ReLU())

        def initialised(scheme):
            model = network()
            scheme(model[0].weight)
            return model

        def study():
            schemes = {"zeros": nn.init.zeros_, "ones": nn.init.ones_}
            for name, scheme in schemes.items():
                model = initialised(scheme)
                print(name, model)

        def unused(variance: float):
            layer = nn.Linear(4, 4)
            nn.init.normal_(layer.weight, std=variance**0.5)
            return nn.Sequential(layer)
        """,
    )
    candidates = found(path)
    assert list(candidates) == ["initialised", "unused"]
    assert not candidates["initialised"].construct()[0].weight.any()  # the loop's first scheme
    with pytest.raises(ConstructionError, match="'variance' decides the initialisation"):
        candidates["unused"].construct()
