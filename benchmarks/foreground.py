"""What estimated foreground colours cost and gain: `python -m benchmarks.foreground -o FILE.json`.

Cost: the scenes of `benchmarks.refinement`, which are hairy, at three sizes. Gain: the halo that is left when a cutout
is laid over another background, against the true colours' composite: mean difference over the undecided pixels, in
levels of 255, whatever the background is, where alpha is exact and where it is blurred, as a network's is.
`--pictures DIR` writes cutouts of photographs, with the embedded model, over magenta, to look at.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import machine
from benchmarks.refinement.coarse import network_matte
from benchmarks.refinement.scenes import SceneSpec, draw
from benchmarks.results import markdown, write_result
from matting.composition import composite, to_uint8
from matting.foreground import estimate_foreground
from matting.geometry import restore
from tests.support.images import photographs
from tests.support.memory import peak_bytes
from training.data.scene import compose

Bytes = NDArray[np.uint8]
SIZES = ((1024, 1024), (3000, 4000), (4000, 6000))
SEED, SIDE, SCENES = 1234, 512, 24


def cost(size: tuple[int, int]) -> dict[str, Any]:
    """Processor time and memory for one hairy image."""
    scene = draw(SceneSpec(*size, "hard", 0))
    alpha = to_uint8(scene.alpha)
    times = []
    for _ in range(3):
        started = time.process_time()
        estimate_foreground(scene.image, alpha)
        times.append(time.process_time() - started)
    peak = peak_bytes(partial(estimate_foreground, scene.image, alpha), partial(_rehearse, 64))
    return {
        "megapixels": round(alpha.size / 1e6, 2),
        "undecided": round(float(((alpha > 0) & (alpha < 255)).mean()), 4),
        "cpu_s": round(min(times), 3),
        "peak_mib": round(peak / 2**20, 1),
    }


def _rehearse(side: int) -> None:
    estimate_foreground(np.zeros((side, side, 3), np.uint8), np.full((side, side), 9, np.uint8))


def halo(blur: float) -> dict[str, Any]:
    """Mean halo over procedural subjects whose colours are known; `blur` is the deviation of alpha's in pixels."""
    original, estimated = [], []
    for index in range(SCENES):
        scene, _ = compose(index, SIDE, SEED, "hard")
        exact = scene.alpha[..., None]
        image = np.rint((exact * scene.foreground + (1 - exact) * scene.background) * 255).clip(0, 255).astype(np.uint8)
        alpha = np.asarray(cv2.GaussianBlur(scene.alpha, (0, 0), blur), np.float32) if blur else scene.alpha
        levels = to_uint8(np.ascontiguousarray(alpha))
        counted = (levels > 0) & (levels < 255)
        truth = _extended(scene.foreground * 255, scene.alpha)
        original.append(_halo(image, truth, levels, counted))
        estimated.append(_halo(estimate_foreground(image, levels), truth, levels, counted))
    return {
        "blur": blur,
        "original": round(float(np.mean(original)), 3),
        "estimated": round(float(np.mean(estimated)), 3),
    }


def _extended(colours: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """True colours with those of the subject nearby where there is none of it: a blurred alpha reaches there."""
    inside = (alpha > 0).astype(np.float32)
    sums = cv2.boxFilter(colours * inside[..., None], -1, (15, 15), normalize=False)
    counts = cv2.boxFilter(inside, -1, (15, 15), normalize=False)
    means = sums / np.maximum(counts, 1)[..., None]
    return np.where(inside[..., None] > 0, colours, means).astype(np.float32)


def _halo(colours: Bytes, truth: NDArray[np.float32], alpha: Bytes, counted: NDArray[np.bool_]) -> float:
    """The background's colour falls out of the difference of two composites: it is the same for all of them."""
    difference = np.abs(colours - truth) * (alpha[..., None] / 255)
    return float(difference[counted].mean())


def table(result: dict[str, Any]) -> str:
    """Both Markdown tables of a result."""
    costs = markdown(
        ("image", "undecided", "CPU, s", "peak, MiB"),
        (
            (f"{row['megapixels']} Mpx", f"{row['undecided']:.1%}", f"{row['cpu_s']:.2f}", f"{row['peak_mib']:.0f}")
            for row in result["cost"]
        ),
    )
    gains = markdown(
        ("alpha", "halo with the image's colours", "with estimated ones", "ratio"),
        (
            (
                f"blurred, σ = {row['blur']:g} px" if row["blur"] else "exact",
                f"{row['original']:.1f}",
                f"{row['estimated']:.1f}",
                f"{row['estimated'] / row['original']:.2f}",
            )
            for row in result["halo"]
        ),
    )
    return f"{costs}\n\n{gains}"


def pictures(folder: Path) -> None:
    """Cutouts of photographs over magenta: the image's own colours at the left, estimated ones at the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, photograph in photographs().items():
        alpha = restore(network_matte(photograph), (photograph.shape[0], photograph.shape[1]))
        halves = [photograph, estimate_foreground(photograph, to_uint8(alpha))]
        laid = [composite(np.ascontiguousarray(half), alpha, (255, 0, 255)) for half in halves]
        Image.fromarray(np.hstack(laid)).save(folder / f"{name}-magenta.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or make the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foreground", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write cutouts over magenta, and measure nothing")
    arguments = parser.parse_args(argv)
    if arguments.pictures:
        pictures(arguments.pictures)
        return 0
    described = machine.describe("scikit-image")
    found = {"cost": [cost(size) for size in SIZES], "halo": [halo(blur) for blur in (0.0, 1.0, 2.0)]}
    print(table(found))
    if arguments.out:
        words = sys.argv[1:] if argv is None else list(argv)
        write_result(arguments.out, "benchmarks.foreground", words, {"machine": described, **found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
