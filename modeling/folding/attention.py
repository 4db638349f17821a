"""Window attention whose bias and masks are constants of the network instead of being computed from the map's size.

The shift mask of a window depends only on whether the window lies in the last row or the last column of windows: four
patterns for the whole network, whatever the size of the map. A graph that holds the patterns and which window has
which is smaller by far than one that holds every window's mask, and a runtime folds them when it loads.
"""

import torch
from torch import Tensor, nn

from modeling.birefnet.network import BiRefNet
from modeling.birefnet.window_attention import WindowAttention, shift_mask
from modeling.folding.sharing import frozen, with_shared_tensors


class ConstantWindowAttention(WindowAttention):
    """A `WindowAttention` with a materialised position bias and four mask patterns."""

    def __init__(self, original: WindowAttention, patterns: Tensor) -> None:
        nn.Module.__init__(self)
        self.heads, self.window, self.shift = original.heads, original.window, original.shift
        self.scale, self.qkv, self.proj = original.scale, original.qkv, original.proj
        weight = original.qkv.weight
        with torch.no_grad():
            self.position_bias = frozen(original._position_bias(weight.dtype))
        self.register_buffer("patterns", patterns, persistent=False)
        self.patterns: Tensor
        self.eval()

    def _position_bias(self, dtype: torch.dtype) -> Tensor:
        return self.position_bias.to(dtype)

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        down, across = height // self.window, width // self.window
        kinds = [2 * (row == down - 1) + (column == across - 1) for row in range(down) for column in range(across)]
        return self.patterns.index_select(0, torch.tensor(kinds, device=device))


def fix_attention_constants(network: BiRefNet) -> BiRefNet:
    """Make the position bias and the shift masks of every attention constants.

    Raises:
        ValueError: The network is in training mode.
    """
    folded = with_shared_tensors(network)
    patterns: dict[int, Tensor] = {}
    for module in list(folded.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, WindowAttention):
                if child.window not in patterns:
                    patterns[child.window] = _patterns(child.window).to(child.qkv.weight.device)
                setattr(module, name, ConstantWindowAttention(child, patterns[child.window]))
    return folded


def _patterns(window: int) -> Tensor:
    """(4, 1, N, N): the masks of an inner window, one in the last column, one in the last row, the one in both."""
    return torch.from_numpy(shift_mask(2 * window, 2 * window, window))
