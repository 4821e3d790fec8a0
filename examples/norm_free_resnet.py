"""A residual network without normalisation and without scaled branches: IC401, the stream grows with every block.

Each block adds a branch as large as its input, so the variance doubles per block: forty blocks make 2^40. Fixup, SkipInit
or ReZero would start every branch at (nearly) zero.
"""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return x + self.fc2(torch.relu(self.fc1(x)))


class NormFreeResNet(nn.Module):
    def __init__(self, features=64, width=128, blocks=40, classes=10):
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(blocks)])
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))
