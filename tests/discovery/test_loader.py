"""Definitions are executed, and what they need; nothing else of a script is."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from files import loaded, write

from initcheck.discovery.loader import execution
from initcheck.discovery.placeholders import NotAvailableError, Placeholder


def notes(module: object) -> str:
    run = execution(module)  # type: ignore[arg-type]
    assert run is not None
    return "\n".join(f"{note.line}: {note.reason}" for note in run.notes)


def test_a_training_script_is_not_run(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "script.py",
        """
        import argparse, sys
        import torch
        from torch import nn

        parser = argparse.ArgumentParser()
        parser.add_argument("--width", type=int, default=24)
        parser.add_argument("--data", required=True)
        args = parser.parse_args()
        WIDTH = 7

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(WIDTH, args.width)

        open("written.txt", "w").write("no")
        net = Net()
        for step in range(10):
            net(torch.randn(1, 7)).sum().backward()
        sys.exit(3)
        """,
    )
    _, module = loaded(path)
    assert "net" not in vars(module)
    assert not (tmp_path / "written.txt").exists()
    assert module.Net().fc.weight.shape == (24, 7)  # args has its defaults, and no option is required


def test_the_main_block_is_executed_only_for_what_is_asked(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "script.py",
        """
        CALLS = []

        def note(value):
            CALLS.append(value)
            return value

        if __name__ == "__main__":
            width = note(3)
            other = note(4)
        """,
    )
    _, module = loaded(path)
    assert module.CALLS == []
    execution(module).ensure(["width"], main=True)  # type: ignore[union-attr]
    assert vars(module)["width"] == 3
    assert module.CALLS == [3]


def test_a_missing_package_fails_only_when_it_is_used(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        import not_a_package.deep as deep
        from not_a_package import Layer, decorate
        import torch
        from torch import nn

        @decorate
        def plain():
            return 1

        @deep.register("name", kind=2)
        class Net(nn.Module):
            def forward(self, x: deep.Tensor | None) -> Layer:
                return x

        class Derived(Layer):
            pass

        class Uses(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = Layer(3)
        """,
    )
    _, module = loaded(path)
    assert module.plain() == 1
    assert module.Net()
    assert isinstance(module.Layer, Placeholder)
    with pytest.raises(NotAvailableError, match=r"not_a_package\.Layer .* package 'not_a_package' is not installed"):
        module.Uses()
    with pytest.raises(NotAvailableError, match=r"Derived derives from not_a_package\.Layer"):
        module.Derived()


def test_a_fallback_import_still_falls_back(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        try:
            from not_a_package import fused
        except ImportError:
            fused = None
        """,
    )
    _, module = loaded(path)
    assert module.fused is None


def test_a_lightning_module_is_a_module(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "lit.py",
        """
        import not_lightning as pl
        from torch import nn

        class Lit(pl.LightningModule):
            def __init__(self, width=4):
                super().__init__()
                self.save_hyperparameters()
                self.fc = nn.Linear(self.hparams.width, 2)
        """,
    )
    _, module = loaded(path)
    assert module.Lit().fc.in_features == 4


def test_data_sets_are_not_loaded(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "script.py",
        """
        from torchvision import datasets
        from torch import nn

        data = datasets.MNIST("data", download=True)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(data.width, 2)
        """,
    )
    _, module = loaded(path)
    assert "data sets are not loaded" in notes(module)
    with pytest.raises((NotAvailableError, TypeError)):
        module.Net()


def test_relative_and_sibling_imports(tmp_path: Path) -> None:
    write(tmp_path, "project/pkg/__init__.py", "from .net import Net\nraise RuntimeError('never gets here')\n")
    write(tmp_path, "project/pkg/layers.py", "WIDTH = 5\nclass Layer: width = WIDTH\nopen('x', 'w')\n")
    path = write(
        tmp_path,
        "project/pkg/net.py",
        """
        from torch import nn
        from .layers import Layer
        from helper import depth

        class Net(nn.Module):
            width, depth = Layer.width, depth
        """,
    )
    write(tmp_path, "project/helper.py", "depth = 2\n")
    before = list(sys.path)
    _, module = loaded(path)
    assert module.__name__ == "pkg.net"
    assert (module.Net.width, module.Net.depth) == (5, 2)
    assert sys.path == before


def test_files_of_the_same_name_are_not_mixed_up(tmp_path: Path) -> None:
    for project in ("a", "b"):
        write(tmp_path, f"{project}/layers.py", f"NAME = {project!r}\n")
        path = write(tmp_path, f"{project}/model.py", "import layers\nNAME = layers.NAME\n")
        _, module = loaded(path)
        assert project == module.NAME


def test_a_file_named_like_an_installed_package_does_not_replace_it(tmp_path: Path) -> None:
    import numpy

    _, module = loaded(write(tmp_path, "numpy.py", "X = 1\n"))
    assert module.X == 1
    assert sys.modules["numpy"] is numpy


def test_positions_are_true(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from torch import nn

        skipped = undefined_name

        class Net(nn.Module):
            def fail(self):
                raise KeyError("here")
        """,
    )
    _, module = loaded(path)
    assert inspect.getsourcelines(module.Net)[1] == 6
    with pytest.raises(KeyError) as caught:
        module.Net().fail()
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(path), 8)


def test_a_configuration_class_is_whole(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        from __future__ import annotations
        from dataclasses import dataclass, field

        SIZES = [1, 2]

        @dataclass
        class Config:
            width: int = 8
            sizes: list[int] = field(default_factory=lambda: list(SIZES))
        """,
    )
    _, module = loaded(path)
    assert module.Config().sizes == [1, 2]


def test_a_decorator_that_fails_is_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model.py",
        """
        REGISTRY = {"net": 1}

        def register(cls):
            raise KeyError("already registered")

        @register
        class Net:
            pass
        """,
    )
    _, module = loaded(path)
    assert isinstance(module.Net, type)
