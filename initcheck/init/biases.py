"""Biases that say something: forget gates that remember, heads that know a class is rare, units that start alive."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from initcheck.init._tensors import initialiser, need_dims, whole, write
from initcheck.init.scaling import draw_


def forget_gate_bias_(target: nn.LSTM | nn.LSTMCell | Tensor, value: float = 1.0) -> nn.LSTM | nn.LSTMCell | Tensor:
    """Forget-gate bias ``value``, so that the cell remembers at the start (Jozefowicz et al. 2015; Gers et al. 2000).

    torch adds ``bias_ih`` and ``bias_hh``: given a module, the forget quarter of every ``bias_ih`` becomes ``value``
    and that of ``bias_hh`` zero. Given a tensor (a bias of length 4·hidden, i f g o), its second quarter is set.

    Raises:
        ValueError: a module without biases, or a tensor whose length is not a multiple of 4.
        TypeError: neither an LSTM nor a tensor.
    """
    if isinstance(target, Tensor):
        return _forget_quarter_(target, value)
    if not isinstance(target, (nn.LSTM, nn.LSTMCell)):
        raise TypeError(f"forget_gate_bias_: expected nn.LSTM, nn.LSTMCell or a tensor, got {type(target).__name__}")
    biases = {name: p for name, p in target.named_parameters(recurse=False) if name.startswith("bias_")}
    if not biases:
        raise ValueError("forget_gate_bias_: this LSTM was built with bias=False")
    for name, bias in biases.items():
        _forget_quarter_(bias, value if name.startswith("bias_ih") else 0.0)
    return target


@initialiser
def _forget_quarter_(tensor: Tensor, value: float) -> Tensor:
    need_dims("forget_gate_bias_", tensor, 1, 1)
    if tensor.shape[0] % 4:
        raise ValueError(f"forget_gate_bias_: an LSTM bias has 4·hidden elements, got {tensor.shape[0]}")
    hidden = tensor.shape[0] // 4
    values = whole(tensor)
    values[hidden : 2 * hidden] = value
    return write(tensor, values)


@initialiser
def prior_bias_(tensor: Tensor, prior: float = 0.01) -> Tensor:
    """-log((1 - π)/π): a sigmoid head that starts by answering π, the share of the rare class (Lin et al. 2017, §4.1).

    Raises:
        ValueError: π outside (0, 1).
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior_bias_: the prior must lie between 0 and 1, got {prior}")
    return tensor.fill_(-math.log((1.0 - prior) / prior))


@initialiser
def positive_bias_(tensor: Tensor, value: float = 0.1) -> Tensor:
    """A small positive constant, so that a ReLU unit starts alive for most inputs.

    Raises:
        ValueError: a value that is not positive.
    """
    if not value > 0.0:
        raise ValueError(f"positive_bias_: the value must be positive, got {value}")
    return tensor.fill_(value)


def irnn_(
    target: nn.RNN | nn.RNNCell | Tensor, scale: float = 1.0, *, generator: torch.Generator | None = None
) -> nn.RNN | nn.RNNCell | Tensor:
    """Identity recurrence with zero bias for a ReLU recurrent net (Le, Jaitly and Hinton 2015).

    Given an ``nn.RNN`` or ``nn.RNNCell`` (``nonlinearity='relu'``): every hidden-to-hidden weight becomes
    ``scale``·I, every bias zero, and input weights N(0, 0.001²). Given a square tensor: ``scale``·I.

    Raises:
        ValueError: a tensor that is not square, or a net whose nonlinearity is not ReLU.
        TypeError: another module (gated nets have no single recurrent map).
    """
    if isinstance(target, Tensor):
        return _identity_(target, scale)
    if not isinstance(target, (nn.RNN, nn.RNNCell)):
        raise TypeError(f"irnn_: expected nn.RNN, nn.RNNCell or a tensor, got {type(target).__name__}")
    if target.nonlinearity != "relu":
        raise ValueError(f"irnn_: needs nonlinearity='relu', this net has {target.nonlinearity!r}")
    for name, parameter in target.named_parameters(recurse=False):
        if name.startswith("weight_hh"):
            _identity_(parameter, scale)
        elif name.startswith("bias"):
            constant_(parameter, 0.0)
        else:
            _small_(parameter, generator)
    return target


@initialiser
def _identity_(tensor: Tensor, scale: float) -> Tensor:
    need_dims("irnn_", tensor, 2, 2)
    if tensor.shape[0] != tensor.shape[1]:
        raise ValueError(f"irnn_: needs a square matrix, got shape {tuple(tensor.shape)}")
    return write(tensor, scale * torch.eye(tensor.shape[0], device=tensor.device))


@initialiser
def _small_(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    return draw_(tensor, 0.001, "normal", generator)


@initialiser
def constant_(tensor: Tensor, value: float) -> Tensor:
    """Every element ``value``."""
    return tensor.fill_(value)
