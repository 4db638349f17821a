"""Contact sheets for the eye: photograph, matte, cutout on magenta; and the truth where there is one."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.data.stream import Source, normalised

Photo = NDArray[np.uint8]
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photographs(size: int) -> list[Photo]:
    """scikit-image's photographs squashed to `size`: looked at, never trained on."""
    from skimage import data  # slow to import, and only previews need it

    pictures = [np.ascontiguousarray(getattr(data, name)()[..., :3]) for name in PHOTOGRAPHS]
    return [np.asarray(cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA), np.uint8) for one in pictures]


@torch.no_grad()
def mattes(network: nn.Module, images: Sequence[Photo]) -> NDArray[np.float32]:
    """The mattes (N, H, W) of uint8 (H, W, 3) images of one size; the network is left in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    planes = [normalised(torch.from_numpy(image)[None].to(device)) for image in images]
    return np.stack([torch.sigmoid(network(plane))[0, 0].cpu().numpy() for plane in planes])


def _row(image: Photo, planes: Sequence[NDArray[np.float32]]) -> Photo:
    """The image, each plane in grey, and the image cut out by the first plane on magenta."""
    grey = [np.repeat((plane * 255).astype(np.uint8)[..., None], 3, axis=2) for plane in planes]
    alpha = planes[0][..., None]
    cutout = (image * alpha + np.array([255.0, 0.0, 255.0]) * (1 - alpha)).astype(np.uint8)
    return np.concatenate([image, *grey, cutout], axis=1)


def write_sheet(path: Path, rows: Sequence[Photo], columns: int) -> None:
    """Arrange equal pictures in a grid and write a PNG."""
    blank = np.zeros_like(rows[0])
    padded = [*rows, *[blank] * (-len(rows) % columns)]
    grid = np.concatenate([np.concatenate(padded[k : k + columns], axis=1) for k in range(0, len(padded), columns)])
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), grid[..., ::-1]):
        raise OSError(f"cannot write the picture {path}")


def preview(network: nn.Module, path: Path, size: int, held_out: Source, count: int = 12) -> None:
    """One sheet: the photographs, then held-out procedural images with their truth as the last grey column."""
    images = photographs(size)
    rows = [
        _row(image, [alpha, np.zeros_like(alpha)]) for image, alpha in zip(images, mattes(network, images), strict=True)
    ]
    items = [held_out.item(index, size) for index in range(count)]
    predicted = mattes(network, [image for image, _ in items])
    rows += [_row(image, [alpha, truth]) for (image, truth), alpha in zip(items, predicted, strict=True)]
    write_sheet(path, rows, 2)
