"""Where a half-precision network loses its digits: relative errors at the ends of its stages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.half_emulation import HalfEmulation
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from modeling.folding import fold
from modeling.half import Island, half_precision


def stage_errors(network: BiRefNet, image: NDArray[np.uint8]) -> Mapping[str, float]:
    """The relative error (root mean square over root mean square) of each stage in fp16, as exported, against fp32.

    Args:
        network: As trained.
        image: (H, W, 3) uint8.

    Returns:
        In the order of the computation: the backbone's maps at full and at half scale, the squeeze, the decoder's
        blocks, the logits.
    """
    folded = fold(network)
    exact = _outputs(folded, image)
    with HalfEmulation():
        rounded = _outputs(half_precision(folded), image)
    return {name: _relative(rounded[name], truth) for name, truth in exact.items()}


def stage_table(errors: Mapping[str, float]) -> str:
    """As lines of text for a person."""
    lines = [f"{'stage':<24}{'relative error in fp16':>24}"]
    return "\n".join([*lines, *(f"{name:<24}{error:>24.2e}" for name, error in errors.items())])


@torch.no_grad()
def _outputs(network: BiRefNet, image: NDArray[np.uint8]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = [module.register_forward_hook(_keep(found, name)) for name, module in _stages(network).items()]
    try:
        ImageToAlpha(network)(torch.from_numpy(image[None].copy()))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _stages(network: BiRefNet) -> dict[str, nn.Module]:
    decoder = network.decoder.module if isinstance(network.decoder, Island) else network.decoder
    blocks = {f"decoder_block{level}": decoder.get_submodule(f"decoder_block{level}") for level in (4, 3, 2, 1)}
    return {"backbone": network.bb, "squeeze_module": network.squeeze_module, **blocks, "logits": network}


def _keep(found: dict[str, Tensor], name: str) -> Any:  # noqa: ANN401  torch's type of a hook
    def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        if isinstance(output, Tensor):
            found[name] = output.float()
            return
        scale = "half" if f"{name} full /4" in found else "full"
        for index, each in enumerate(output):
            found[f"{name} {scale} /{4 << index}"] = each.float()

    return hook


def _relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).square().mean().sqrt() / truth.square().mean().sqrt())
