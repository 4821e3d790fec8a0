"""The copy of a tree of modules is what ``copy.deepcopy`` makes, and lists of its members are torch's."""

from __future__ import annotations

import copy
import functools
import threading

import pytest
import timm
import torch
from torch import nn

from initcheck.tracing.deepcopies import copied_module
from initcheck.tracing.members import modules_of, named_modules, named_tensors


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(2, 2)
        self.again = self.shared
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.shared.weight
        self.held = [self.shared, {"layer": self.tied, "sizes": (1, (2, 3))}]
        self.pair = (self.shared, 1)
        self.act = functools.partial(torch.relu)
        self.rnn = nn.LSTM(2, 2)
        self.loop = {}
        self.loop["self"] = self.loop
        self.__dict__["parent"] = self
        self.register_buffer("table", torch.arange(3))
        self.register_parameter("missing", None)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __deepcopy__(self, memo):
        made = Counted()
        made.count = self.count + 1
        return made


class Restored(nn.Module):
    def __getstate__(self):
        return {**vars(self), "saved": True}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.restored = state.get("saved", False)


def alike(one, other, seen):
    """Whether two object trees have the same shape: types, values, and what is the same object as what."""
    if id(one) in seen:
        return seen[id(one)] == id(other)
    seen[id(one)] = id(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, nn.Module):
        return alike(vars(one), vars(other), seen)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[k], other[k], seen) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(alike(a, b, seen) for a, b in zip(one, other, strict=True))
    return True


@pytest.mark.parametrize("make", [Owner, Counted, Restored, lambda: timm.create_model("mobilevit_xxs")])
def test_the_copy_is_copy_deepcopy_s(make):
    model = make()
    mine, theirs = copied_module(model, {}), copy.deepcopy(model)
    assert alike(theirs, mine, {})
    assert [n for n, _ in mine.named_modules()] == [n for n, _ in model.named_modules()]
    assert not {id(p) for p in mine.parameters()} & {id(p) for p in model.parameters()}
    assert not {id(m) for m in mine.modules()} & {id(m) for m in model.modules()}


def test_what_cannot_be_copied_is_said():
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(TypeError):
        copied_module(model, {})


@pytest.mark.parametrize("make", [Owner, lambda: timm.create_model("mobilevit_xxs")])
def test_members_are_torch_s(make):
    model = make()
    assert named_modules(model) == list(model.named_modules())
    assert named_modules(model, repeats=True) == list(model.named_modules(remove_duplicate=False))
    assert modules_of(model) == list(model.modules())
    for repeats in (False, True):
        for kind, theirs in (("_parameters", model.named_parameters), ("_buffers", model.named_buffers)):
            mine = named_tensors(model, kind, repeats=repeats)
            assert [(n, id(t)) for n, t in mine] == [(n, id(t)) for n, t in theirs(remove_duplicate=not repeats)]
