"""A deep ReLU network with Glorot's initialisation: IC201, the gain is not that of the activation that follows.

Glorot's gain of 1 keeps the scale of a linear layer. A ReLU throws away half of the second moment, so every layer halves
what is left: after forty layers a millionth of the scale. ``kaiming_normal_(weight, nonlinearity="relu")`` makes up for it.
"""

import torch
from torch import nn


class DeepClassifier(nn.Module):
    def __init__(self, features=64, width=64, depth=40, classes=10):
        super().__init__()
        sizes = [features] + [width] * depth
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.head = nn.Linear(width, classes)
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


model = DeepClassifier()
