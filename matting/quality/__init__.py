"""How good a matte is, against the truth. Arrays are (H, W) float32 in [0, 1], at the same size."""

from matting.quality.error import band_absolute_error, mean_absolute_error
from matting.quality.overlap import iou

__all__ = ["band_absolute_error", "iou", "mean_absolute_error"]
