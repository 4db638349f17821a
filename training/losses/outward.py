"""Gradient supervision, BiRefNet's outward reference: side outputs learn where the image has edges in the subject."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_label(edges: Tensor, side_logits: Tensor, dilation: int | None = None) -> Tensor:
    """What a level's gradient prediction should be.

    The paper multiplies the image's gradients by the intermediate prediction, dilated, so that edges just outside of a
    matte that is too small count too; the official code multiplies by the raw logits, without dilation
    (`shared/reference/birefnet.md` 4.1).

    Args:
        edges: (B, 1, H, W), the Laplacian of the normalised image (`modeling.birefnet.decoder.image_laplacian`).
        side_logits: (B, 1, h, w) intermediate prediction.
        dilation: Radius in image pixels of the square that the region p >= 0.5 is dilated by, as in the paper: the
            label is sigmoid(edges x region), 0.5 outside of it. None: the official code's sigmoid(edges x logits).

    Returns:
        (B, 1, H, W) in (0, 1).
    """
    logits = F.interpolate(side_logits.float(), size=edges.shape[-2:], mode="bilinear", align_corners=True)
    if dilation is None:
        return torch.sigmoid(edges * logits)
    region = (logits >= 0).to(edges.dtype)
    side = 2 * dilation + 1
    for window in ((side, 1), (1, side)):  # a square is separable
        region = F.max_pool2d(region, window, 1, (window[0] // 2, window[1] // 2))
    return torch.sigmoid(edges * region)


def gradient_supervision(predictions: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Binary cross-entropy of predicted gradient maps (logits) against labels in [0, 1], summed over levels.

    The network makes the labels (`TrainingOutputs.gradient_labels`), or `gradient_label` does; no gradient flows into
    them.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"expected a label for each gradient prediction, found {len(labels)} for {len(predictions)}")
    losses = []
    for prediction, label in zip(predictions, labels, strict=True):
        logits = prediction.float()
        if logits.shape[-2:] != label.shape[-2:]:
            logits = F.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=True)
        losses.append(F.binary_cross_entropy_with_logits(logits, label.detach().float()))
    return torch.stack(losses).sum()
