"""A deep tanh network whose weights are drawn far too wide: IC205, the gradient explodes while the units saturate.

The author took the gain for a factor on top of He's and squared it. Most units sit near -1 or 1; where one does not, the
gradient is multiplied by several, layer after layer. ``xavier_normal_(weight, gain=5/3)`` is what tanh wants.
"""

import torch
from torch import nn


class TanhNet(nn.Module):
    def __init__(self, features=64, width=256, depth=20, classes=10):
        super().__init__()
        sizes = [features] + [width] * depth
        self.hidden = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.head = nn.Linear(width, classes)
        for layer in self.hidden:
            nn.init.normal_(layer.weight, std=4 / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.head(x)
