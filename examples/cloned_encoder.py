"""A transformer encoder whose layers all start with the same weights: IC109.

``nn.TransformerEncoder`` deep-copies the layer it is given. Unless the copies are drawn again, six layers begin as one.
"""

import torch
from torch import nn


class SentenceEncoder(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, nhead=4, num_layers=6, max_len=64):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.randn(1, max_len, d_model) * 0.02)
        layer = nn.TransformerEncoderLayer(d_model, nhead, dim_feedforward=512, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.pool = nn.Linear(d_model, d_model)

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions[:, : tokens.shape[1]]
        return torch.tanh(self.pool(self.encoder(x).mean(dim=1)))
