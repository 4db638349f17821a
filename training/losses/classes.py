"""The auxiliary classification: what the subject is, told by the encoder's last map."""

from torch import Tensor
from torch.nn import functional as F


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy (`shared/reference/birefnet.md` 4.1; weight 5, DIS5K's 219 classes).

    Args:
        logits: (B, classes), `TrainingOutputs.class_logits`.
        labels: (B,) int64; -1 where an image has none.

    Returns:
        The mean over the images that have a label; 0 where none has.

    Raises:
        ValueError: A label is not one of the classes.
    """
    known = labels >= 0
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < -1:
        raise ValueError(
            f"expected labels from 0 to {logits.shape[1] - 1}, or -1 for none, found {sorted(set(labels.tolist()))}"
        )
    if not bool(known.any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known])
