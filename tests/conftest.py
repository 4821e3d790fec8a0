"""torchvision's compiled ops need not load for what is tested here: their schemas are declared before it is imported."""

from __future__ import annotations

import torch

torch.set_num_threads(1)

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
