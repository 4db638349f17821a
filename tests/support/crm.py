"""Small refiners with weights that exercise every part."""

import functools
from dataclasses import replace

import torch

from modeling.crm.config import COMPACT, RESNET50, CrmConfig, StageConfig
from modeling.crm.network import CRM

THIN_RESNET50 = replace(
    RESNET50,
    stem=8,
    stages=(StageConfig(3, 4, 1), StageConfig(4, 6, 2), StageConfig(6, 8, 1, dilation=2)),
    fused=(8, 8, 8),
    latent=12,
    hidden=8,
)
"""The published network's depths, strides, dilations and kernels, and few channels."""

SMALL = replace(
    COMPACT,
    stem=8,
    stages=(StageConfig(1, 8, 2), StageConfig(1, 12, 2)),
    fused=(4, 4, 4),
    latent=12,
    hidden=8,
    fused_cues=4,
)


def seeded_refiner(config: CrmConfig, seed: int = 0) -> CRM:
    """In evaluation mode, with random weights everywhere, norms and the last layer included, and lively statistics."""
    generator = torch.Generator().manual_seed(seed)
    network = CRM(config)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.square())
            elif value.ndim > 1:
                value.copy_(noise * (2.0 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
        network.decoder.output.weight.mul_(0.3)  # corrections of a few units of logit, as trained ones are
    return network.eval()


@functools.cache
def small_refiner() -> CRM:
    """SMALL with seeded weights; shared, so not to be changed."""
    return seeded_refiner(SMALL)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth picture with noise, (1, 3, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (0.8 * smooth + 0.2 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)


def soft_mask(height: int, width: int, seed: int = 1) -> torch.Tensor:
    """A soft mask with zeros, ones and all between, (1, height, width)."""
    return (3 * picture(height, width, seed)[:, 0] - 1).clamp(0, 1)
