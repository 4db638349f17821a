"""Whether a refiner does harm on photographs: mattes of a network, reduced to a quarter and refined, against upsampled.

There is no true matte of these photographs. A network's own matte stands for it: what is lost by reducing it four times
must not be made worse than by upsampling alone. Softness that the network meant has to survive, also where the
photograph has a sharp edge. The server refines by itself only with a refiner whose manifest records this check.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from artifact import Artifact, rewrite_manifest
from matting.geometry import fit, restore
from matting.quality import mean_absolute_error
from matting.refinement import Canvas, Tile, TileShape, refine, run
from training.preview import PHOTOGRAPHS

REDUCTION = 4
FIELD = "no_harm"


@dataclass(frozen=True)
class Harm:
    """One photograph.

    Attributes:
        name: Of the photograph.
        upsampled: Mean absolute error of the reduced matte, upsampled.
        refined: Of the reduced matte, refined.
        tiles: How many were refined.
    """

    name: str
    upsampled: float
    refined: float
    tiles: int

    @property
    def worse(self) -> bool:
        """Whether refining did harm."""
        return self.refined > self.upsampled


class TileRunner:
    """A refine artifact in ONNX Runtime on the CPU, as what `matting.refinement` asks."""

    def __init__(self, artifact: Artifact) -> None:
        self._session = onnxruntime.InferenceSession(artifact.file("model"), providers=["CPUExecutionProvider"])
        self.shape = TileShape(artifact.manifest.input_size[0], artifact.manifest.halo or 0)

    def __call__(self, tiles: Sequence[Tile | Canvas]) -> list[NDArray[np.float32]]:
        """The alpha of each tile, (T, T)."""
        return [self._alpha(tile) for tile in tiles if isinstance(tile, Tile)]

    def _alpha(self, tile: Tile) -> NDArray[np.float32]:
        inputs = {"image": tile.image[None], "mask": tile.mask[None], "frame": tile.frame[None]}
        return np.asarray(self._session.run(None, inputs)[0][0], np.float32)


def measure_harm(matte: Artifact, refiner: Artifact) -> list[Harm]:
    """The errors on each of the photographs.

    Args:
        matte: A matte artifact, whose mattes stand for the truth.
        refiner: The refine artifact.
    """
    session = onnxruntime.InferenceSession(matte.file("model"), providers=["CPUExecutionProvider"])
    runner = TileRunner(refiner)
    found = []
    for name in PHOTOGRAPHS:
        image = _photograph(name)
        size = (image.shape[0], image.shape[1])
        alpha = session.run(None, {"image": fit(image, matte.manifest.input_size)[None]})[0][0]
        truth = restore(alpha, size)
        small = (size[1] // REDUCTION, size[0] // REDUCTION)
        coarse = np.asarray(cv2.resize(truth, small, interpolation=cv2.INTER_AREA), np.float32)
        refined = run(refine(image, coarse, runner.shape), runner)
        errors = [mean_absolute_error(each, truth) for each in (restore(coarse, size), refined.alpha)]
        found.append(Harm(name, errors[0], errors[1], refined.report.tiles))
    return found


def record_harm(refiner: Artifact, found: Sequence[Harm], command: str) -> None:
    """Write how many photographs became worse into the refiner's manifest."""
    figures = {"images": len(found), "worse": sum(each.worse for each in found), "command": command}
    manifest = refiner.manifest
    rewrite_manifest(refiner, replace(manifest, extra={**manifest.extra, FIELD: figures}))


def _photograph(name: str) -> NDArray[np.uint8]:
    from skimage import data  # slow to import

    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def harm_table(found: Sequence[Harm]) -> str:
    """As lines of text for a person."""
    lines = [f"{'photograph':12}{'upsampled':>11}{'refined':>10}{'change':>9}{'tiles':>7}"]
    for each in found:
        change = each.refined / max(each.upsampled, 1e-9) - 1
        lines.append(f"{each.name:12}{each.upsampled:11.5f}{each.refined:10.5f}{change:+9.1%}{each.tiles:7}")
    return "\n".join(lines)


def default_artifacts() -> tuple[Path, Path]:
    """Where the package's matte model and refiner lie in a checkout."""
    matte = Path(__file__).parents[2] / "server" / "default_model"
    return matte, matte / "refine"
