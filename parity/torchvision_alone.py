"""torchvision without its compiled operators, which fit one build of PyTorch alone: what it says of two of them is said here.

Import this before anything that imports torchvision. The networks that are compared with need none of the operators.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")  # lives as long as the module
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
