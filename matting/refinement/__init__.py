"""Multi-resolution refinement: a coarse mask becomes a matte that is sharp at the image's own resolution.

A plain generator asks, and is told: it yields tiles (or canvases for the matte network), is sent what the refiner made
of them, and returns the matte. It knows no engine, device or clock; `run` drives it in a loop, the server does so
asynchronously. DESIGN.md section 5; CRM (arXiv 2111.14482) for the schedule, RefineMask (CVPR 2021) for the
composition.
"""

from matting.refinement.guided import GuidedFilter
from matting.refinement.options import (
    CRM_SCHEDULE,
    EAGER,
    GUIDED,
    SINGLE_PASS,
    BandOptions,
    CropOptions,
    FusionOptions,
    RefineOptions,
)
from matting.refinement.port import Canvas, Question, Refined, Report, StageReport, Tile, TileShape
from matting.refinement.procedure import Refinement, refine, run

__all__ = [
    "CRM_SCHEDULE",
    "EAGER",
    "GUIDED",
    "SINGLE_PASS",
    "BandOptions",
    "Canvas",
    "CropOptions",
    "FusionOptions",
    "GuidedFilter",
    "Question",
    "RefineOptions",
    "Refined",
    "Refinement",
    "Report",
    "StageReport",
    "Tile",
    "TileShape",
    "refine",
    "run",
]
