"""A page of crops to look at: the photograph, the matte upsampled, the matte refined, the truth."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from benchmarks.refinement.answer import Answer
from benchmarks.refinement.coarse import COARSE
from benchmarks.refinement.figures import band_of
from benchmarks.refinement.scenes import Image, Plane, Scene, SceneSpec, load
from matting.composition import composite, to_uint8
from matting.foreground import estimate_foreground
from matting.geometry import restore

SIDE = 256
_QUALITY = 75
_CAPTION, _GAP = 16, 4
_COLUMNS = ("photograph", "upsampled", "refined", "truth", "cutout, upsampled", "cutout, refined")
_BEHIND = (255, 0, 255)

Refine = Callable[[Image, Plane], Answer]


def contact_sheet(specs: Sequence[SceneSpec], refine: Refine, cache: Path | None, crops: int) -> Pillow.Image:
    """Crops of every scene, at their own resolution, where upsampling is worst; one strip for each coarse matte."""
    strips = []
    for spec in specs:
        scene = load(spec, cache)
        for kind, make in COARSE.items():
            coarse = make(scene, spec.seed)
            strips += _strips(f"{spec.name}, {kind}", scene, coarse, refine(scene.image, coarse).alpha, crops)
    width = len(_COLUMNS) * (SIDE + _GAP)
    sheet = Pillow.new("RGB", (width, len(strips) * (SIDE + _CAPTION + _GAP)), "white")
    for index, (caption, pictures) in enumerate(strips):
        top = index * (SIDE + _CAPTION + _GAP)
        for column, (picture, name) in enumerate(zip(pictures, _COLUMNS, strict=True)):
            left = column * (SIDE + _GAP)
            sheet.paste(picture, (left, top + _CAPTION))
            ImageDraw.Draw(sheet).text((left, top + 2), f"{caption}: {name}" if column == 0 else name, "black")
    return sheet


def save_sheet(sheet: Pillow.Image, path: Path) -> None:
    """Write it in the format of its name, small enough for a page of the documentation where that format loses."""
    sheet.save(path, quality=_QUALITY)


def _strips(
    caption: str, scene: Scene, coarse: Plane, refined: Plane, crops: int
) -> list[tuple[str, list[Pillow.Image]]]:
    upsampled = restore(coarse, (scene.alpha.shape[0], scene.alpha.shape[1]))
    band = band_of(scene.alpha, (coarse.shape[0], coarse.shape[1]))
    found = []
    for top, left in _places(np.abs(upsampled - scene.alpha) * band, crops):
        window = np.s_[top : top + SIDE, left : left + SIDE]
        photograph = np.ascontiguousarray(scene.image[window])
        mattes = [np.ascontiguousarray(plane[window]) for plane in (upsampled, refined, scene.alpha)]
        cutouts = [_over_magenta(photograph, matte) for matte in mattes[:2]]
        pictures = [photograph, *(to_uint8(matte) for matte in mattes), *cutouts]
        found.append((f"{caption} at {left},{top}", [Pillow.fromarray(picture).convert("RGB") for picture in pictures]))
    return found


def _over_magenta(photograph: Image, matte: Plane) -> Image:
    return composite(estimate_foreground(photograph, to_uint8(matte)), matte, _BEHIND)


def _places(error: Plane, crops: int) -> list[tuple[int, int]]:
    """Top left corners of the windows with the most error, which do not overlap."""
    rows, columns = error.shape[0] // SIDE, error.shape[1] // SIDE
    means = cv2.resize(error[: rows * SIDE, : columns * SIDE], (columns, rows), interpolation=cv2.INTER_AREA)
    order = np.argsort(means, axis=None)[::-1][:crops]
    return [(int(index) // columns * SIDE, int(index) % columns * SIDE) for index in order]
