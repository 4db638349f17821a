"""Exact algebra on trained networks: pure functions from module to module, for exporters and device backends.

Each takes a network in evaluation mode and returns another that shares the tensors it did not have to change; the
given one stays as it was. `fold` applies all of them. What a folded network computes differs from the original by
rounding only; its keys are no longer the official ones, and it cannot be trained.
"""

import functools
from collections.abc import Callable, Mapping

from modeling.birefnet.network import BiRefNet
from modeling.folding.attention import fix_attention_constants
from modeling.folding.batch_norm import fold_batch_norms
from modeling.folding.laterals import lower_laterals
from modeling.folding.merging import sum_branches
from modeling.folding.patches import fold_image_patches
from modeling.folding.pooling import fold_pooled_branch
from modeling.folding.sampling import merge_sampling_convolutions
from modeling.folding.tail import fold_tail

__all__ = [
    "REWRITES",
    "fix_attention_constants",
    "fold",
    "fold_batch_norms",
    "fold_image_patches",
    "fold_pooled_branch",
    "fold_tail",
    "lower_laterals",
    "merge_sampling_convolutions",
    "sum_branches",
]


Rewrite = Callable[[BiRefNet], BiRefNet]

REWRITES: Mapping[str, Rewrite] = {
    "batch norms": fold_batch_norms,
    "tail": fold_tail,
    "image patches": fold_image_patches,
    "laterals": lower_laterals,
    "pooled branch": fold_pooled_branch,
    "summed branches": sum_branches,
    "sampling": merge_sampling_convolutions,
    "attention": fix_attention_constants,
}
"""Every exact rewrite there is, in the order in which they build on each other."""


def fold(network: BiRefNet) -> BiRefNet:
    """Apply all of `REWRITES`.

    Raises:
        ValueError: The network is in training mode, or folded already.
    """
    return functools.reduce(lambda folded, rewrite: rewrite(folded), REWRITES.values(), network)
