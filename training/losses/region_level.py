"""Region-level fine-tuning: in the last epochs pixels count less and regions count what they did.

Source: BiRefNet section 3.5; factors of the official `train.py` (`shared/reference/birefnet.md` 4.1), which multiplies
the weights at the start of every one of the last epochs, so that the factors compound.
"""

from dataclasses import dataclass, replace

from training.losses.hybrid import LossWeights


@dataclass(frozen=True)
class FineTuning:
    """Factors of one epoch's start; a run's last part is divided into that many epochs.

    Attributes:
        begins: Share of the budget at which it begins, in (0, 1]; 1 leaves it out.
        epochs: How many equal parts the rest has.
        bce: Factor of the cross-entropy.
        iou: Factor of the IoU loss.
        ssim: Factor of the SSIM loss.
        mae: Factor of the absolute error.
    """

    begins: float = 1.0
    epochs: int = 20
    bce: float = 0.0
    iou: float = 0.5
    ssim: float = 1.0
    mae: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.begins <= 1 or self.epochs < 1:
            raise ValueError(
                f"fine-tuning begins at a share of the budget in (0, 1] and has at least one epoch, "
                f"found begins={self.begins} and epochs={self.epochs}"
            )

    def weights(self, weights: LossWeights, share: float) -> LossWeights:
        """The weights when `share` of the budget is spent; before `begins` those given."""
        if self.begins >= 1 or share < self.begins:
            return weights
        epoch = min(self.epochs, 1 + int(self.epochs * (share - self.begins) / (1 - self.begins)))
        changed = {
            name: getattr(weights, name) * getattr(self, name) ** epoch for name in ("bce", "iou", "ssim", "mae")
        }
        return replace(weights, **changed)


FINE_TUNING: dict[str, FineTuning] = {
    "dis": FineTuning(epochs=40),
    "general": FineTuning(),
    "matting": FineTuning(epochs=10, bce=1.0, iou=1.0, ssim=0.9, mae=1.0),
}
