"""A folded network on fused kernels: for one GPU, one type of products, and inference only."""

import torch
from torch import Tensor, nn

from modeling.birefnet.blocks import DeformableBranch
from modeling.birefnet.network import BiRefNet
from modeling.birefnet.residual_backbone import ResNetBackbone
from modeling.folding import fold
from modeling.folding.laterals import Size, TwoScaleBiRefNet, up_and_down_matrices
from modeling.fused.backbone import FusedBackbone
from modeling.fused.deform_conv import FusedDeformableBranch
from modeling.fused.launches import Launches
from modeling.half import half_precision


class FusedBiRefNet(TwoScaleBiRefNet):
    """A `TwoScaleBiRefNet` that makes nothing on the host while it runs, as capturing a CUDA graph demands."""

    def __init__(self, folded: TwoScaleBiRefNet, dtype: torch.dtype, launches: Launches) -> None:
        nn.Module.__init__(self)
        mixed = half_precision(folded) if dtype == torch.float16 else folded
        self.config, self.squeeze_module, self.decoder = mixed.config, mixed.squeeze_module, mixed.decoder
        # A residual backbone is convolutions, which the libraries compute best themselves.
        plain = isinstance(folded.bb, ResNetBackbone)
        self.bb = mixed.bb if plain else FusedBackbone(folded.bb, dtype, launches)  # type: ignore[assignment,arg-type]
        self._matrices: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        if plain:
            _keep_channels_last(self.bb)
        for part in (self.squeeze_module, self.decoder):
            _fuse_branches(part, dtype, launches)
            _keep_channels_last(part)
        self.eval()

    def _up_and_down(self, x: Tensor, through: Size, size: Size) -> Tensor:
        key = (tuple(x.shape[2:]), through, size, x.device, x.dtype)
        if key not in self._matrices:
            self._matrices[key] = up_and_down_matrices(x, through, size)
        rows, columns = self._matrices[key]
        return torch.matmul(rows, torch.matmul(x, columns))


def fuse(network: BiRefNet, dtype: torch.dtype = torch.float16, launches: Launches | None = None) -> FusedBiRefNet:
    """Fold a network and put it on fused kernels.

    Args:
        network: As trained, in fp32 and evaluation mode; it stays as it is. The result is on its device.
        dtype: Of products and maps: float16, mixed as in `modeling.half`, or float32.
        launches: Of the GPU.

    Returns:
        Takes (B, 3, H, W) fp32, normalised, H and W multiples of 32; gives (B, 1, H, W) fp32 logits.

    Raises:
        ValueError: The type is another, or the network is in training mode.
    """
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"expected float16 or float32, found {dtype}")
    folded = fold(network)
    if not isinstance(folded, TwoScaleBiRefNet):
        raise TypeError("a folded network keeps its two scales apart. This is a bug.")
    return FusedBiRefNet(folded, dtype, launches or Launches())


def _fuse_branches(part: nn.Module, dtype: torch.dtype, launches: Launches) -> None:
    for module in list(part.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DeformableBranch):
                setattr(module, name, FusedDeformableBranch(child, dtype, launches))


def _keep_channels_last(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            # A parameter of its own: the tensor may be the given network's too.
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
