"""CRM: encoder, fusion and implicit decoder as one network."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matting.normalisation import DEVIATION, MEAN
from modeling.crm.alignment import frame_positions, whole_frame
from modeling.crm.colour_cue import ColourCues, colour_cues
from modeling.crm.config import ALIGNMENT, STRIDE, CrmConfig
from modeling.crm.decoder import ImplicitDecoder, Points, TileWindow
from modeling.crm.encoder import Encoder, Fusion

_HALF_LEVEL = 0.5 / 255.0
_CERTAIN = 0.01
_BOLD = 8.0
_RING = 2  # cells around a window: one that the mixing sees, and one of the decoder

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Latent:
    """What the encoder made of an image and a mask.

    Attributes:
        projected: (B, hidden, h, w) the features' part of the decoder's first layer.
        frame: (B, 4) float32: origin of the window in its canvas and the canvas's size, in input pixels.
        size: (height, width) of the input before it was extended.
        extended: (height, width) after; twice (h, w).
        hints: (B, 2 boxes, height, width): how each colour cue would change the mask's logit; none without cues.
    """

    projected: Tensor
    frame: Tensor
    size: tuple[int, int]
    extended: tuple[int, int]
    hints: Tensor | None


class CRM(nn.Module):
    """Refines a soft mask with the image it belongs to.

    With `residual` the decoder's logit is a correction c of the mask's: an untrained refiner changes nothing, and what
    is soft in the mask is soft in the matte. With colour cues it gives two weights g_b and h_b for each of them as
    well, aggregated like the logit, and where the target is the input's own grid (r = 1)

        logit(x) = logit m + c + sum_b [ g_b 4 m (1 - m) (logit q_b - logit m) + h_b 8 (q_b - m) ],

    so that the network has to learn how far to trust the colours, and not to compare them. g_b works where the mask is
    undecided, h_b also where it is wrong.
    """

    def __init__(self, config: CrmConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.fusion = Fusion(config, self.encoder.channels)
        self.decoder = ImplicitDecoder(config)
        if config.residual:
            for parameter in self.decoder.output.parameters():
                nn.init.zeros_(parameter)  # the correction begins at zero: an untrained refiner changes nothing
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.deviation: Tensor

    def encode(
        self, image: Tensor, mask: Tensor, frame: Tensor | None = None, autocast: torch.dtype | None = None
    ) -> Latent:
        """Run the encoder.

        Both are extended by replication, at the bottom and on the right, to multiples of 8.

        Args:
            image: (B, 3, H, W) float in [0, 1], RGB.
            mask: (B, H, W) float in [0, 1], soft.
            frame: (B, 4) float32, where the window lies in which canvas; None for the whole canvas.
            autocast: Half-precision type of the encoder in training; the decoder and its positions never are.
        """
        size = (image.shape[2], image.shape[3])
        extended = (_up(size[0]), _up(size[1]))
        mask = mask[:, None]
        if extended != size:
            margins = (0, extended[1] - size[1], 0, extended[0] - size[0])
            image, mask = (F.pad(each, margins, mode="replicate") for each in (image, mask))
        normalised, cues = self._seen(image, mask)
        planes = None if cues is None else cues.planes
        with contextlib.nullcontext() if autocast is None else torch.autocast(image.device.type, autocast):
            latent = self.fusion(self.encoder(normalised), planes).to(image.dtype)
        frame = whole_frame(len(image), size).to(image.device) if frame is None else frame
        hints = None if cues is None else _hints(cues.alphas, mask)
        if hints is not None and extended != size:
            hints = hints[:, :, : size[0], : size[1]]
        return Latent(self.decoder.project(latent), frame, size, extended, hints)

    def answer(self, image: Tensor, mask: Tensor, frame: Tensor, window: TileWindow) -> Tensor:
        """`forward` of a window of each tile, (B, side, side), without the latent and the logits of what lies around.

        Equal to it but for rounding. That is most of the network's work.

        Args:
            image: (B, 3, T, T) float in [0, 1], RGB.
            mask: (B, T, T) float in [0, 1], soft.
            frame: (B, 4) float32, where the tile lies in which canvas.
            window: Which part of the tile.
        """
        normalised, cues = self._seen(image, mask[:, None])
        joined = self.fusion.joined(self.encoder(normalised), None if cues is None else cues.planes)
        cells, first = window.side // STRIDE, window.cells
        # Beyond the tile the mixing sees zeros, as it does where it mixes all of the tile.
        around = squares(F.pad(joined, (_RING, _RING, _RING, _RING)), first, cells + 2 * _RING)
        latent = self.fusion.mix(around)[:, :, 1:-1, 1:-1]
        projected = _continued(self.decoder.project(latent), first, window.tile // STRIDE - cells)
        own = torch.cat([frame[:, :2] + window.start.to(frame.dtype), frame[:, 2:]], dim=1)
        positions = frame_positions(own, (window.side, window.side), (1.0, 1.0))
        outputs = self.decoder.forward_window(projected, positions, window)
        planes = [mask[:, None]] if cues is None else [mask[:, None], cues.alphas]
        here = squares(torch.cat(planes, dim=1), window.start, window.side)
        hints = None if cues is None else _hints(here[:, 1:], here[:, :1])
        return torch.sigmoid(self._logits(outputs, here[:, 0], hints))

    def _seen(self, image: Tensor, mask: Tensor) -> tuple[Tensor, ColourCues | None]:
        """What the encoder takes, (B, 4, H, W), and the colour cues."""
        normalised = torch.cat([(image - self.mean) / self.deviation, mask * 2 - 1], dim=1)
        boxes = self.config.colour_cues
        return normalised, colour_cues(image, mask, boxes) if boxes else None

    def decode(
        self, latent: Latent, mask: Tensor, target: tuple[int, int] | None = None, window: Window | None = None
    ) -> Tensor:
        """Logits of a target grid over the input's frame, (B, height, width).

        Args:
            latent: From `encode`.
            mask: The mask at the target's resolution, of the window, (B, height, width); only a residual decoder reads
                it.
            target: (height, width) of the whole target; the input's own size where None.
            window: The rows and columns of the target that are wanted; all where None.
        """
        size = latent.size if target is None else target
        hints = latent.hints if size == latent.size else None
        if window is None and latent.size == latent.extended:  # every point: nothing is chosen, which graphs show
            return self._logits(self._outputs(latent, size, (None, None), paired=False), mask, hints)
        spans = window or (slice(0, size[0]), slice(0, size[1]))
        rows, columns = (torch.arange(span.start, span.stop, device=latent.frame.device) for span in spans)
        hints = None if hints is None else hints[:, :, spans[0], spans[1]]
        return self._logits(self._outputs(latent, size, (rows, columns), paired=False), mask, hints)

    def query(self, latent: Latent, mask: Tensor, target: tuple[int, int], at: tuple[Tensor, Tensor]) -> Tensor:
        """`decode` at chosen pixels of the target grid only: (B, N) for `mask` (B, N) and rows and columns (N,)."""
        hints = latent.hints[:, :, at[0], at[1]] if latent.hints is not None and target == latent.size else None
        return self._logits(self._outputs(latent, target, at, paired=True), mask, hints)

    def _outputs(
        self, latent: Latent, target: tuple[int, int], at: tuple[Tensor | None, Tensor | None], *, paired: bool
    ) -> Tensor:
        grid, scale = self._grid(latent, target)
        positions = frame_positions(latent.frame, grid, scale)
        outputs: Tensor = self.decoder(latent.projected, positions, Points(grid, *at, paired))
        return outputs

    def _logits(self, outputs: Tensor, mask: Tensor, hints: Tensor | None) -> Tensor:
        """The decoder's logit; as a residual, added to the mask's with what its weights make of the hints."""
        logits = outputs[:, 0]
        if not self.config.residual:
            return logits
        if hints is not None:
            logits = logits + (outputs[:, 1:] * hints).sum(1)
        return logits + mask_logits(mask)

    def _grid(self, latent: Latent, target: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, float]]:
        """The target grid over the extended frame, and input pixels for each of its pixels.

        Exact where the input was not extended, or the target is the input times a whole number.
        """
        (height, width), (tall, wide) = latent.size, latent.extended
        grid = (round(target[0] * tall / height), round(target[1] * wide / width))
        return grid, (tall / grid[0], wide / grid[1])

    def forward(self, image: Tensor, mask: Tensor, frame: Tensor | None = None) -> Tensor:
        """The refined alpha at the input's size: (B, 3, H, W), (B, H, W) to (B, H, W) in [0, 1]."""
        return torch.sigmoid(self.logits(image, mask, frame))

    def logits(self, image: Tensor, mask: Tensor, frame: Tensor | None = None) -> Tensor:
        """The logits of `forward`."""
        return self.decode(self.encode(image, mask, frame), mask)


def squares(planes: Tensor, start: Tensor, side: int) -> Tensor:
    """A square of each item, of its own place: (B, C, H, W) to (B, C, side, side).

    Args:
        planes: (B, C, H, W).
        start: (B, 2) int64, first row and column.
        side: Of the squares.
    """
    channels, height, width = planes.shape[1:]
    span = torch.arange(side, device=planes.device)
    # Numbers of the items, counted: a range of the batch's length would be computed on the host, beside a GPU's graph.
    items = (start[:, 0].to(planes.dtype) * 0 + 1).cumsum(0).long() - 1
    rows = items[:, None] * height + start[:, 0, None] + span
    at = rows[:, :, None] * width + (start[:, 1, None] + span)[:, None, :]
    # One gathering of pixels whose channels lie side by side: an index for each pixel, and not for each value.
    found = planes.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, at.reshape(-1))
    return found.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


def _continued(cells: Tensor, first: Tensor, last: int) -> Tensor:
    """The ring of one cell around a window, where it lies beyond the tile, as a copy of the outermost cells within.

    Args:
        cells: (B, C, n + 2, n + 2).
        first: (B, 2) int64: the window's first row and column of cells in the tile.
        last: Of them the largest that there can be.
    """
    for axis in (2, 3):
        at = first[:, axis - 2].view(-1, 1, 1, 1)
        count = cells.shape[axis]
        before, low, high, after = (cells.narrow(axis, each, 1) for each in (0, 1, count - 2, count - 1))
        before, after = torch.where(at == 0, low, before), torch.where(at == last, high, after)
        cells = torch.cat([before, cells.narrow(axis, 1, count - 2), after], axis)
    return cells


def _hints(alphas: Tensor, mask: Tensor) -> Tensor:
    """How each cue would change the mask's logit: where the mask is undecided, and everywhere.

    For the first, cue and mask are kept a hundredth away from 0 and 1: beyond, a logit is rounding more than anything.
    """
    cue, own = (torch.logit(each.clamp(_CERTAIN, 1.0 - _CERTAIN)) for each in (alphas, mask))
    return torch.cat([4 * mask * (1 - mask) * (cue - own), _BOLD * (alphas - mask)], dim=1)


def mask_logits(mask: Tensor) -> Tensor:
    """The logit of a soft mask, which is kept half an 8-bit level away from 0 and 1."""
    return torch.logit(mask.clamp(_HALF_LEVEL, 1.0 - _HALF_LEVEL))


def _up(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
