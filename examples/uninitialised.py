"""A graph convolution whose weight is allocated and never filled: IC101, it holds whatever was in memory.

``torch.empty`` promises nothing about its content: zeros on one day, NaN on another. The bias next to it is filled.
"""

import torch
from torch import nn


class GraphConvolution(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        nn.init.zeros_(self.bias)

    def forward(self, x, adj):
        return adj @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    def __init__(self, nfeat=64, nhid=32, nclass=7):
        super().__init__()
        self.gc1 = GraphConvolution(nfeat, nhid)
        self.gc2 = GraphConvolution(nhid, nclass)

    def forward(self, x, adj):
        return self.gc2(torch.relu(self.gc1(x, adj)), adj)
