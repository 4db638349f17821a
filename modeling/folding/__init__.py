"""Exact algebra on trained networks: pure functions from module to module, for exporters and device backends.

Each takes a network in evaluation mode and returns another that shares the tensors it did not have to change; the
given one stays as it was. `fold` applies all of them. What a folded network computes differs from the original by
rounding only; its keys are no longer the official ones, and it cannot be trained.
"""

from modeling.birefnet.network import BiRefNet
from modeling.folding.attention import fix_attention_constants
from modeling.folding.batch_norm import fold_batch_norms
from modeling.folding.pooling import fold_pooled_branch
from modeling.folding.sampling import merge_sampling_convolutions
from modeling.folding.tail import fold_tail

__all__ = [
    "fix_attention_constants",
    "fold",
    "fold_batch_norms",
    "fold_pooled_branch",
    "fold_tail",
    "merge_sampling_convolutions",
]


def fold(network: BiRefNet) -> BiRefNet:
    """Every exact rewrite there is, in the order in which they build on each other."""
    folded = fold_tail(fold_batch_norms(network))
    return fix_attention_constants(merge_sampling_convolutions(fold_pooled_branch(folded)))
