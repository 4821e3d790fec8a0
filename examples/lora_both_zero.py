"""A LoRA adapter with both factors at zero: IC704, neither of them ever gets a gradient.

The update B A starts at zero as it should, but the gradient of A is proportional to B and that of B to A. One of them has
to be random.
"""

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, inputs, outputs, rank=4, alpha=8):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


class Adapted(nn.Module):
    def __init__(self, features=256, classes=10):
        super().__init__()
        self.fc1 = LoRALinear(features, 512)
        self.fc2 = LoRALinear(512, classes)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
