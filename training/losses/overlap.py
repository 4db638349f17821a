"""The loss of regions. Source: BiRefNet's official `loss.py`, `shared/reference/birefnet.md` section 4.1."""

from torch import Tensor


def iou(probability: Tensor, target: Tensor, mean_over_batch: bool = False) -> Tensor:
    """Soft IoU loss: the sum over the batch of 1 - sum(g p) / (sum g + sum p - sum(g p)).

    Summed over the batch as the official code does; `mean_over_batch` divides by its size, so that the weight does
    not depend on it. Zero at a binary truth; at a soft one g p < g and the loss stays above zero. An empty target
    with an empty prediction gives 0.
    """
    dims = (1, 2, 3)
    both = (probability * target).sum(dims)
    union = target.sum(dims) + probability.sum(dims) - both
    loss = (1.0 - (both + 1e-6) / (union + 1e-6)).sum()
    return loss / len(target) if mean_over_batch else loss
