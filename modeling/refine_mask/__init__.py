"""RefineMask: instance masks from 14 to 112 pixels with the semantic features of the whole picture."""

from modeling.refine_mask.composition import boundary, compose
from modeling.refine_mask.network import RefineMaskConfig, RefineMaskHead, SemanticFusion, SemanticHead
from modeling.refine_mask.regions import crop_regions
from modeling.refine_mask.segmenter import BoxSegmenter, SegmenterConfig

__all__ = [
    "BoxSegmenter",
    "RefineMaskConfig",
    "RefineMaskHead",
    "SegmenterConfig",
    "SemanticFusion",
    "SemanticHead",
    "boundary",
    "compose",
    "crop_regions",
]
