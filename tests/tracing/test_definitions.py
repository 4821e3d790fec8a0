"""Places of classes and of the lines that make layers: read off a class's own lines, as the whole file would say."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
from torch import nn

from initcheck.source.file import SourceFile
from initcheck.tracing import definitions
from initcheck.tracing.definitions import attribute_location, class_location

_HEAD = '''"""A file.

class Documented(nn.Module):
    shown only
"""
import torch
from torch import nn

'''
_INIT = """    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
"""
_INDENTED = _INIT.replace("    def", "        def").replace("        s", "            s")
CASES = {
    "plain": f"class Net(nn.Module):\n{_INIT}\nx = 1\n",
    "header of several lines": f"class Net(\n    nn.Module,\n):\n    # a comment\n# at the margin\n{_INIT}",
    "text at the margin": f'class Net(nn.Module):\n    """\nAt the margin.\n"""\n{_INIT}',
    "base in the file": f"class Base(nn.Module):\n{_INIT}class Net(Base):\n    def forward(self):\n        pass\n",
    "defined twice": f"class Net(nn.Module):\n{_INIT}class Net(nn.Module):\n\n{_INIT}",
    "under a condition": f"if True:\n    class Net(nn.Module):\n{_INDENTED}",
    "without a function": f"class Base(nn.Module):\n{_INIT}class Net(Base):\n    slope = 1\n",
    "renamed": f"class Other(nn.Module):\n{_INIT}Net = Other\n",
    "made by type()": "def forward(self):\n    pass\nNet = type('Documented', (nn.Module,), {'forward': forward})\n",
}
_counter = itertools.count()


def load(tmp_path, text):
    path = tmp_path / f"defined_{next(_counter)}.py"
    path.write_text(_HEAD + text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, path.stem, module)
        spec.loader.exec_module(module)
        yield path, module


@pytest.fixture(params=CASES)
def defined(request, tmp_path):
    yield from load(tmp_path, CASES[request.param])


def test_places_are_those_of_the_whole_file(defined):
    path, module = defined
    source = SourceFile.read(path)
    name = module.Net.__qualname__
    assert class_location(module.Net) == source.class_location(name)
    assert attribute_location(module.Net, "fc") == source.attribute_assignment(name, "fc")


def test_only_the_class_is_parsed(tmp_path, monkeypatch):
    """Of files with thousands of lines, as libraries have them, most of the time went into parsing."""
    for path, module in load(tmp_path, CASES["plain"]):
        monkeypatch.setattr(definitions.SourceFile, "read", lambda path: pytest.fail("the whole file is parsed"))
        where = attribute_location(module.Net, "fc")
        assert where is not None
        assert path.read_text().splitlines()[where.line - 1].strip() == "self.fc = nn.Linear(2, 2)"


def test_torch_s_own_classes_have_no_place():
    assert class_location(nn.Linear) is None
    assert attribute_location(nn.Linear, "weight") is None
