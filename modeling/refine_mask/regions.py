"""Feature maps of regions: what lies in a box, at a fixed size."""

import torch
from torch import Tensor
from torch.nn import functional as F

_SAMPLES = 2


def crop_regions(features: Tensor, boxes: Tensor, images: Tensor, size: int) -> Tensor:
    """RoIAlign (He et al., "Mask R-CNN", ICCV 2017) with half-pixel centres and 2 x 2 samples per cell.

    Args:
        features: (B, C, H, W).
        boxes: (N, 4) x0, y0, x1, y1 in pixels of `features`, edges, not centres; (0, 0, W, H) is all of it.
        images: (N,) int64, which of the B each box lies in.
        size: S, cells on each side.

    Returns:
        (N, C, S, S). Samples beyond the border repeat it.
    """
    height, width = features.shape[2:]
    cells = (torch.arange(size * _SAMPLES, dtype=boxes.dtype, device=boxes.device) + 0.5) / (size * _SAMPLES)
    x = boxes[:, None, 0] + cells * (boxes[:, None, 2] - boxes[:, None, 0])
    y = boxes[:, None, 1] + cells * (boxes[:, None, 3] - boxes[:, None, 1])
    # grid_sample's -1 and 1 are the edges of the map, as half-pixel centres want it.
    across = (2 * x / width - 1)[:, None, :].expand(-1, len(cells), -1)
    down = (2 * y / height - 1)[:, :, None].expand(-1, -1, len(cells))
    grid = torch.stack((across, down), dim=-1)
    samples = F.grid_sample(features[images], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(samples, _SAMPLES)
