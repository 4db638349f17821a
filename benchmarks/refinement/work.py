"""What a refiner's answers cost: multiply-adds of its network, which depend on no machine."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from matting.refinement import TileShape
from modeling.crm.decoder import TileWindow
from modeling.crm.network import CRM

_FLOPS_PER_MAC = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-adds of one network.

    Attributes:
        encode: For a pixel of its input.
        decode: For a pixel that is asked for.
        tile: For what is answered of a tile.
    """

    encode: float
    decode: float
    tile: float

    def giga(self, encoded: float, decoded: float) -> float:
        """Of so many pixels, in units of 10⁹."""
        return (encoded * self.encode + decoded * self.decode) / 1e9


@torch.no_grad()
def cost_of(network: CRM, shape: TileShape) -> Cost:
    """Count them on one tile of a shape."""
    side = shape.side
    image, mask, frame = torch.zeros(1, 3, side, side), torch.zeros(1, side, side), torch.zeros(1, 4)
    window = TileWindow(side, torch.zeros(1, 2, dtype=torch.int64), shape.answer)
    with FlopCounterMode(display=False) as encoding:
        latent = network.encode(image, mask)
    with FlopCounterMode(display=False) as decoding:
        network.decode(latent, mask)
    with FlopCounterMode(display=False) as answering:
        network.answer(image, mask, frame + side, window)
    encode, decode, tile = (each.get_total_flops() / _FLOPS_PER_MAC for each in (encoding, decoding, answering))
    return Cost(encode / side**2, decode / side**2, tile)
