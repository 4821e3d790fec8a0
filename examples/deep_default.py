"""Thirty ReLU layers with torch's default initialisation: IC202, the signal vanishes.

``nn.Linear`` draws weights with variance 1/(3 fan_in). Behind a ReLU that keeps a sixth of the second moment, layer after
layer. The biases keep the total alive, but after thirty layers the output no longer depends on the input.
"""

import torch
from torch import nn


class DeepRegressor(nn.Module):
    def __init__(self, features=32, width=256, depth=30):
        super().__init__()
        self.inputs = nn.Linear(features, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.output = nn.Linear(width, 1)

    def forward(self, x):
        x = torch.relu(self.inputs(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.output(x)
