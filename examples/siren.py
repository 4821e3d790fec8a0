"""SIREN, a coordinate network of sines, with the initialisation its paper derives (Sitzmann et al. 2020): clean.

The first layer is U(-1/n, 1/n), the others U(-sqrt(6/n)/omega, sqrt(6/n)/omega), so that every sine receives N(0, 1).
"""

import math

import torch
from torch import nn


class Sine(nn.Module):
    def __init__(self, inputs, outputs, omega=30.0, first=False):
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(self.omega * self.linear(x))


class Siren(nn.Module):
    def __init__(self, coordinates=2, channels=3, hidden=256, depth=4, omega=30.0):
        super().__init__()
        layers = [Sine(coordinates, hidden, omega, first=True)]
        layers += [Sine(hidden, hidden, omega) for _ in range(depth - 1)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, channels)
        bound = math.sqrt(6 / hidden) / omega
        nn.init.uniform_(self.head.weight, -bound, bound)

    def forward(self, coords):
        return self.head(self.body(coords))
