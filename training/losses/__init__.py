"""The losses of the papers, one concept per module. All are off but for BiRefNet's own.

| module | what | source |
|---|---|---|
| `pixels`, `overlap`, `similarity` | BCE and MAE; IoU; SSIM | BiRefNet (Zheng et al. 2024) |
| `hybrid` | their weighted sum on every prediction, presets for each task | BiRefNet |
| `outward` | gradient supervision and its label | BiRefNet |
| `classes` | cross-entropy of the auxiliary classes | BiRefNet |
| `region_level` | the weights of the last epochs | BiRefNet |
| `structure` | weighted BCE and IoU | F3Net (Wei et al. 2020) |
| `refine_mask` | finer stages learn near boundaries only | RefineMask (Zhang et al. 2021) |
| `inverse_form` | how far a boundary has to be moved; **patent notice** there | InverseForm (Borse et al. 2021) |
| `contour` | length and region | Chen et al. 2019 |

CRM's losses are in `training.refiner.losses`.
"""

from training.losses.classes import classification
from training.losses.contour import contour
from training.losses.hybrid import PRESETS, LossWeights, hybrid, multi_stage
from training.losses.outward import gradient_label, gradient_supervision
from training.losses.overlap import iou
from training.losses.pixels import bce, mae
from training.losses.region_level import FINE_TUNING, FineTuning
from training.losses.similarity import ssim, ssim_map
from training.losses.structure import structure

__all__ = [
    "FINE_TUNING",
    "PRESETS",
    "FineTuning",
    "LossWeights",
    "bce",
    "classification",
    "contour",
    "gradient_label",
    "gradient_supervision",
    "hybrid",
    "iou",
    "mae",
    "multi_stage",
    "ssim",
    "ssim_map",
    "structure",
]
