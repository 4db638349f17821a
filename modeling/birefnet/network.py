"""BiRefNet (Zheng et al. 2024, "Bilateral Reference for High-Resolution Dichotomous Image Segmentation")."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeling.birefnet.backbone import SwinBackbone
from modeling.birefnet.blocks import DecoderBlock, resize
from modeling.birefnet.config import BiRefNetConfig, ResNetConfig, SwinConfig
from modeling.birefnet.decoder import Decoder, SideOutputs, image_laplacian
from modeling.birefnet.residual_backbone import ResNetBackbone

SIZE_MULTIPLE = 32


def make_backbone(config: SwinConfig | ResNetConfig) -> SwinBackbone | ResNetBackbone:
    """The encoder of a configuration."""
    return SwinBackbone(config) if isinstance(config, SwinConfig) else ResNetBackbone(config)


@dataclass(frozen=True)
class TrainingOutputs:
    """Everything the losses of a training step read. All logits are before the sigmoid.

    Attributes:
        side_logits: Mattes of levels 4, 3, 2 at their own resolutions: (B, 1, h, w) at strides 32, 16, 8.
        logits: (B, 1, H, W), the matte that evaluation returns.
        gradient_logits: Predicted gradients of levels 4, 3, 2 at their own resolutions, strides 32, 16, 8.
        gradient_labels: What those should be once upsampled (corners aligned) to the image: (B, 1, H, W) in (0, 1),
            sigmoid(Laplacian of the image x upsampled side logits). As in the official code the label
            depends on the network and is not detached; a loss that wants a fixed target detaches it.
        class_logits: (B, classes) of the auxiliary head; None without one.
    """

    side_logits: tuple[Tensor, ...]
    logits: Tensor
    gradient_logits: tuple[Tensor, ...]
    gradient_labels: tuple[Tensor, ...]
    class_logits: Tensor | None


class BiRefNet(nn.Module):
    """The network of the released checkpoints (keys and arithmetic), or of any other configuration.

    In evaluation mode the result is the logits; in training mode a `TrainingOutputs`.
    """

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.encoder_channels
        self.bb = make_backbone(config.backbone)
        if config.auxiliary_classes is not None:
            self.cls_head = nn.Sequential(nn.Linear(channels[3], config.auxiliary_classes))
        self.squeeze_module = nn.Sequential(DecoderBlock(sum(channels), channels[3], config))
        self.decoder = Decoder(config)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Predict the matte.

        Args:
            x: (B, 3, H, W) float RGB, normalised with the ImageNet mean and deviation; H and W multiples of 32.

        Returns:
            (B, 1, H, W) logits in evaluation mode, `TrainingOutputs` in training mode.

        Raises:
            ValueError: The input is not (B, 3, H, W) with H and W multiples of 32.
        """
        x1, x2, x3, x4 = self._encode(x)
        context = [resize(finer, (x4.shape[2], x4.shape[3])) for finer in (x1, x2, x3)]
        squeezed = self.squeeze_module(torch.cat((*context, x4), dim=1))
        logits, sides = self.decoder(x, (x1, x2, x3, squeezed))
        if not self.training:
            return logits
        class_logits = self.cls_head(x4.mean(dim=(2, 3))) if self.config.auxiliary_classes is not None else None
        return _training_outputs(x, logits, sides, class_logits)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """The fused maps, finest first: each is (full, upsampled half) on the channels."""
        return [
            torch.cat((fine, resize(coarse, (fine.shape[2], fine.shape[3]))), dim=1)
            for fine, coarse in zip(*self._scales(x), strict=True)
        ]

    def _scales(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The backbone's maps of the image, and of the image at half scale."""
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % SIZE_MULTIPLE or x.shape[3] % SIZE_MULTIPLE:
            raise ValueError(
                f"BiRefNet needs (B, 3, H, W) with H and W multiples of {SIZE_MULTIPLE}, found {tuple(x.shape)}"
            )
        return list(self.bb(x)), list(self.bb(resize(x, (x.shape[2] // 2, x.shape[3] // 2))))


def _training_outputs(
    image: Tensor, logits: Tensor, sides: list[SideOutputs], class_logits: Tensor | None
) -> TrainingOutputs:
    edges = image_laplacian(image)
    size = (image.shape[2], image.shape[3])
    return TrainingOutputs(
        side_logits=tuple(side.logits for side in sides),
        logits=logits,
        gradient_logits=tuple(side.gradient_logits for side in sides),
        gradient_labels=tuple(torch.sigmoid(edges * resize(side.logits, size)) for side in sides),
        class_logits=class_logits,
    )
