"""A policy network filled with one constant: IC702, all hidden units stay copies of each other."""

from torch import nn


def init_constant(module):
    if isinstance(module, nn.Linear):
        nn.init.constant_(module.weight, 0.01)
        nn.init.zeros_(module.bias)


class Policy(nn.Module):
    def __init__(self, state_dim=8, action_dim=4, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(state_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, action_dim),
        )
        self.net.apply(init_constant)

    def forward(self, state):
        return self.net(state)
