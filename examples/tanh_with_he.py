"""A tanh network initialised for ReLU: IC201, the gain is not that of the activation that follows.

He's gain of sqrt(2) expects that the activation throws half of the signal away. Tanh does not. In a dozen layers the
consequence is mild; ``nonlinearity="tanh"`` says what is meant.
"""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, features=128, width=256, depth=12, code=16):
        super().__init__()
        sizes = [features] + [width] * depth
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.code = nn.Linear(width, code)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.code(x)
