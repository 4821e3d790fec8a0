"""A perceptron whose hidden weights all start at zero: IC701, its units can never become different.

Units that start equal receive equal gradients. With zeros on both sides of the hidden layer, nothing but the last bias
would ever learn.
"""

import torch
from torch import nn


class Perceptron(nn.Module):
    def __init__(self, features=784, hidden=128, classes=10):
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.output = nn.Linear(hidden, classes)
        self.reset_parameters()

    def reset_parameters(self):
        for layer in (self.hidden, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.output(torch.sigmoid(self.hidden(torch.flatten(x, 1))))
