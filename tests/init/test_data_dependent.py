from __future__ import annotations

import pytest
import torch
from torch import nn

from initcheck.init import lsuv_


def deep_net(activation=nn.Tanh):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), activation(), nn.Conv2d(16, 16, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), activation(), nn.Flatten(), nn.Linear(32 * 64, 64), activation(),
        nn.Linear(64, 10),
    )  # fmt: skip


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SELU])
def test_every_layer_has_unit_variance_on_the_data(activation):
    torch.manual_seed(0)
    net, data = deep_net(activation), torch.rand(32, 3, 16, 16)
    steps = lsuv_(net, data)
    assert [s.layer for s in steps] == ["0", "2", "5", "8", "10"]
    assert all(s.converged and s.rescalings <= 10 for s in steps)
    variances, handles = [], []
    for module in net:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            handles.append(
                module.register_forward_hook(lambda m, i, o: variances.append(float(o.detach().var(correction=0))))
            )
    net(data)
    assert variances == pytest.approx([1] * 5, abs=0.05)


def test_starts_from_orthonormal_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
    lsuv_(net, torch.randn(64, 32))
    for layer in (net[0], net[2]):
        gram = layer.weight @ layer.weight.T
        scale = gram.diagonal().mean()
        assert torch.allclose(gram / scale, torch.eye(len(gram)), atol=1e-5)
    before = net[0].weight.clone()
    lsuv_(net, torch.randn(64, 32) * 3, orthonormal=False)
    ratio = net[0].weight / before
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-4)


def test_order_of_execution_not_of_registration():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.second(self.first(x).relu())

    assert [s.layer for s in lsuv_(Swapped(), torch.randn(16, 8))] == ["first", "second"]


def test_a_failing_forward_leaves_the_model_alone():
    net = deep_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(RuntimeError):
        lsuv_(net, torch.rand(4, 3, 15, 15))  # fits the convolutions, not the linear layer
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(not m._forward_hooks for m in net.modules())


def test_buffers_stay_and_dead_layers_are_reported():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    before = net[1].running_mean.clone()
    lsuv_(net, torch.randn(16, 4))
    assert torch.equal(before, net[1].running_mean)
    (step,) = lsuv_(nn.Linear(4, 4, bias=False), torch.zeros(8, 4))
    assert not step.converged
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        lsuv_(nn.ReLU(), torch.zeros(1))
