"""Initialisers under the names they had before torch 0.4: IC801, for which ``--fix`` knows the new ones.

Otherwise the model is sound: a VAE for 784 pixels.
"""

import torch
import torch.nn as nn
import torch.nn.init as init


class VAE(nn.Module):
    def __init__(self, pixels=784, hidden=400, code=20):
        super().__init__()
        self.encoder = nn.Linear(pixels, hidden)
        self.mean = nn.Linear(hidden, code)
        self.log_variance = nn.Linear(hidden, code)
        self.expand = nn.Linear(code, hidden)
        self.decoder = nn.Linear(hidden, pixels)
        for layer in (self.encoder, self.expand):
            init.kaiming_normal(layer.weight, nonlinearity="relu")
            init.constant(layer.bias, 0)
        init.xavier_uniform(self.decoder.weight)

    def forward(self, x):
        hidden = torch.relu(self.encoder(x.view(-1, 784)))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return torch.sigmoid(self.decoder(torch.relu(self.expand(code)))), mean, log_variance
