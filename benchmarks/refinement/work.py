"""What a refiner's answers cost: multiply-adds of its network, which depend on no machine."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling.crm.network import CRM

_SIDE = 256
_FLOPS_PER_MAC = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-adds of one network.

    Attributes:
        encode: For a pixel of its input.
        decode: For a pixel that is asked for.
    """

    encode: float
    decode: float

    def giga(self, encoded: float, decoded: float) -> float:
        """Of so many pixels, in units of 10⁹."""
        return (encoded * self.encode + decoded * self.decode) / 1e9


@torch.no_grad()
def cost_of(network: CRM) -> Cost:
    """Count them on one tile."""
    image, mask = torch.zeros(1, 3, _SIDE, _SIDE), torch.zeros(1, _SIDE, _SIDE)
    with FlopCounterMode(display=False) as encoding:
        latent = network.encode(image, mask)
    with FlopCounterMode(display=False) as decoding:
        network.decode(latent, mask)
    per_pixel = _FLOPS_PER_MAC * _SIDE**2
    return Cost(encoding.get_total_flops() / per_pixel, decoding.get_total_flops() / per_pixel)
