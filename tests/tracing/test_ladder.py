"""Why a forward could not be recorded is said in one line; trials are cheap and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from initcheck.tracing.ladder import TraceError, Trial, trace


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no such\nthing"), SystemExit(3), RecursionError("deep")])
def test_a_forward_that_raises_gives_one_line(error):
    with pytest.raises(TraceError) as caught:
        trace(Raises(error), (torch.randn(2, 2),), {})
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)


def test_lazy_parameters_are_asked_for():
    with pytest.raises(TraceError, match="lazy"):
        trace(nn.LazyLinear(3), (torch.randn(2, 2),), {})


def test_trial_says_what_the_forward_raised():
    trial = Trial(nn.Sequential(nn.Linear(8, 4), nn.ReLU()))
    assert trial.attempt((torch.randn(2, 8),), {}) is None
    error = trial.attempt((torch.randn(2, 5),), {})
    assert isinstance(error, RuntimeError)
    assert "5" in str(error)
    assert "8" in str(error)
    assert trial.attempt((torch.randn(2, 8),), {}) is None
    assert isinstance(trial.attempt((torch.zeros(2, 8, dtype=torch.long),), {}), RuntimeError)


def test_trial_looks_at_indices():
    trial = Trial(nn.Embedding(10, 4))
    assert trial.attempt((torch.tensor([[1, 9]]),), {}) is None
    assert isinstance(trial.attempt((torch.tensor([[1, 10]]),), {}), IndexError)


def test_trial_forgets_what_a_forward_cached():
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.ones(x.shape[0], 1)
            return self.fc(x) * self.table

    model = Caches()
    trial = Trial(model)
    assert trial.attempt((torch.randn(2, 4),), {}) is None
    assert trial.attempt((torch.randn(3, 4),), {}) is None
    assert model.table is None


def test_patches_are_taken_off_after_a_failure():
    import torch.nn.functional as F

    before = F.has_torch_function_unary
    with pytest.raises(TraceError):
        trace(Raises(ValueError("x")), (torch.randn(2, 2),), {})
    assert F.has_torch_function_unary is before
    assert not torch.nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()


def test_no_grad_inside_a_forward_takes_effect():
    seen = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            with torch.no_grad():
                seen.append(torch.is_grad_enabled())
            seen.append(torch.is_grad_enabled())
            return self.fc(x)

    trace(Model(), (torch.randn(2, 2),), {})
    assert seen == [False, True]


def test_a_training_loop_named_train_is_not_run():
    class Model(nn.Sequential):
        def train(self, positive, negative=None):
            raise AssertionError("not the mode switch")

    model = Model(nn.Linear(2, 2), nn.Dropout(0.5))
    assert Trial(model).attempt((torch.randn(2, 2),), {}) is None
    assert trace(model, (torch.randn(2, 2),), {}, mode="eval").rung == "recorder"


def test_a_model_that_freezes_its_norm_in_train_mode_keeps_it_frozen():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.norm(x)

    traced = trace(Model(), (torch.randn(3, 4),), {})
    norm = next(n for n in traced.graph.nodes if n.meta.get("op") == "batch_norm")
    assert not norm.kwargs.get("training", norm.args[5] if len(norm.args) > 5 else None)
