"""An orthogonal initialisation that never arrives: IC102, ``apply`` draws the same weights again.

The recurrent-style mixing layer is set up with care in ``__init__``; the call at the end then visits every linear layer.
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, features=64, steps=8, classes=10):
        super().__init__()
        self.steps = steps
        self.encode = nn.Linear(features, 128)
        self.mix = nn.Linear(128, 128, bias=False)
        self.head = nn.Linear(128, classes)
        nn.init.orthogonal_(self.mix.weight)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x):
        state = torch.tanh(self.encode(x))
        for _ in range(self.steps):
            state = torch.tanh(self.mix(state))
        return self.head(state)
