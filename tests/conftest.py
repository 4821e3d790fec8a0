"""Where torchvision's compiled ops do not load, their schemas are declared, so that its models can be built."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
_DECLARED = []

try:
    import torchvision
except RuntimeError:  # "operator torchvision::nms does not exist"
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(_library)  # the schemas live as long as this
    import torchvision  # noqa: F401
