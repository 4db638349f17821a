"""How good a matte is, against the truth. Arrays are (H, W) float32 in [0, 1], at the same size.

| metric | of | where the truth is empty or full |
|---|---|---|
| `mean_absolute_error`, `mean_squared_error`, `sum_absolute_difference` | alpha | as everywhere |
| `gradient_error`, `connectivity_error` | alpha | as everywhere |
| `band_absolute_error` | alpha near the contour | 0: there is no band |
| `iou`, `pooled_iou`, `boundary_iou` | regions | 1 where both regions are empty |
| `mean_boundary_accuracy` | regions near the contour | None: not defined, leave the image out |
| `s_measure`, `e_measure` | alpha, thresholds of it | the share of pixels that are right, by their definition |
| `weighted_f` | alpha | empty: 1 for an empty matte, else 0 |
| `human_correction_efforts` | regions | as everywhere |

Regions are where a matte is 0.5 or more. Nothing is stretched to [0, 1]: that would hide how a matte is calibrated.
`weighted_f` needs scipy and `human_correction_efforts` scikit-image; both come with `[train]`, and are imported when
they are called. A hairy matte of 24 megapixels takes three seconds of one processor at most, but forty for
`human_correction_efforts`, and at most 0.9 GiB besides the two mattes.
"""

from matting.quality.alignment import EMeasure, e_measure
from matting.quality.boundary import boundary_iou, mean_boundary_accuracy
from matting.quality.connectivity import connectivity_error
from matting.quality.correction import human_correction_efforts
from matting.quality.error import (
    band_absolute_error,
    mean_absolute_error,
    mean_squared_error,
    sum_absolute_difference,
)
from matting.quality.gradient import gradient_error
from matting.quality.overlap import iou, pooled_iou
from matting.quality.structure import s_measure
from matting.quality.weighted import weighted_f

__all__ = [
    "EMeasure",
    "band_absolute_error",
    "boundary_iou",
    "connectivity_error",
    "e_measure",
    "gradient_error",
    "human_correction_efforts",
    "iou",
    "mean_absolute_error",
    "mean_boundary_accuracy",
    "mean_squared_error",
    "pooled_iou",
    "s_measure",
    "sum_absolute_difference",
    "weighted_f",
]
