"""Structural similarity (Wang et al., "Image quality assessment", TIP 2004), as BiRefNet's official code has it."""

import torch
from torch import Tensor


def _gaussian_band(length: int, like: Tensor, side: int = 11, sigma: float = 1.5) -> Tensor:
    """The (length, length) matrix that convolves a line with the Gaussian window and zero padding.

    As a matrix product the separable window costs a tenth of what one-channel convolutions cost on a CPU.
    """
    axis = torch.arange(length, dtype=like.dtype, device=like.device)
    distance = axis[:, None] - axis[None, :]
    reach = torch.arange(side, dtype=like.dtype, device=like.device) - side // 2
    weights = torch.exp(-(distance**2) / (2.0 * sigma**2)) / torch.exp(-(reach**2) / (2.0 * sigma**2)).sum()
    return torch.where(distance.abs() <= side // 2, weights, torch.zeros_like(weights))


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of every pixel's window: 11x11 Gaussian, sigma 1.5, C1 .01^2, C2 .03^2, zero padding.

    Args:
        first: (B, 1, H, W) in [0, 1].
        second: (B, 1, H, W) in [0, 1].

    Returns:
        (B, 1, H, W), 1 where the windows are the same.
    """
    down, across = _gaussian_band(first.shape[-2], first), _gaussian_band(first.shape[-1], first)
    # The second's own windows apart: for a fixed target they cost nothing in the backward pass.
    mean1, square1, product = (down @ torch.cat([first, first * first, first * second]) @ across).chunk(3)
    mean2, square2 = (down @ torch.cat([second, second * second]) @ across).chunk(2)
    variance1, variance2, covariance = square1 - mean1**2, square2 - mean2**2, product - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    return (
        (2 * mean1 * mean2 + c1) * (2 * covariance + c2) / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))
    )


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """The mean of `ssim_map`; 1 for equal maps. The loss is (1 - SSIM) / 2."""
    return ssim_map(first, second).mean()
