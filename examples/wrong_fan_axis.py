"""Weights stored as (inputs, outputs) and used as ``x @ W``: IC301, the initialiser reads the wrong axis as fan-in.

``kaiming_normal_`` takes dimension 1 for fan-in, as ``nn.Linear`` stores it. For a matrix of shape (1024, 64) that gives
sixteen times the variance that was intended.
"""

import torch
from torch import nn


class Dense(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x):
        return x @ self.weight + self.bias


class Funnel(nn.Module):
    def __init__(self, sizes=(1024, 64, 1024, 64, 1024, 64), classes=10):
        super().__init__()
        self.layers = nn.ModuleList([Dense(a, b) for a, b in zip(sizes, sizes[1:])])
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


if __name__ == "__main__":
    model = Funnel()
    print(model(torch.randn(16, 1024)).std())
