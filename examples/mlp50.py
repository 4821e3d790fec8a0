"""The textbook experiment: fifty layers of 100 ReLU units, weights from N(0, variance), for five variances.

A layer multiplies the second moment by 100 * variance / 2. Only variance 0.02 (He initialisation) keeps signal and
gradient; 0.001 and 0.01 let both vanish (IC202), 0.1 and 1 make both explode (IC203).
"""

from torch import nn


class MLP(nn.Module):
    def __init__(self, variance, width=100, depth=50):
        super().__init__()
        layers = []
        for _ in range(depth):
            linear = nn.Linear(width, width, bias=False)
            nn.init.normal_(linear.weight, mean=0.0, std=variance**0.5)
            layers += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


variance_0_001 = MLP(0.001)
variance_0_01 = MLP(0.01)
variance_0_02 = MLP(0.02)
variance_0_1 = MLP(0.1)
variance_1 = MLP(1.0)
