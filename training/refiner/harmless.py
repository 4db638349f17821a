"""Whether a refiner does harm on photographs: mattes of a network, reduced to a quarter and refined, against upsampled.

There is no true matte of these photographs. A network's own matte stands for it: what is lost by reducing it four times
must not be made worse than by upsampling alone. Softness that the network meant has to survive, also where the
photograph has a sharp edge; and of the same matte, made sharp, the contour has to stay where it is, although the
photograph's edge is elsewhere. The server refines by itself only with a refiner whose manifest records this check.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from artifact import Artifact, check_refiner, rewrite_manifest
from matting.geometry import fit, restore
from matting.quality import mean_absolute_error
from matting.refinement import Canvas, Tile, TileShape, refine, run

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "clock", "coffee", "coins", "motorcycle", "retina", "rocket")
"""Those that scikit-image carries in its wheel, small ones and grey ones too."""

REDUCTION = 4
FIELD = "no_harm"
_EDGE = 1.5
_LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class Harm:
    """One matte of a photograph.

    Attributes:
        name: Of the photograph, and whether its matte was made sharp.
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
        check_refiner(artifact)
        self._session = onnxruntime.InferenceSession(artifact.file("model"), providers=["CPUExecutionProvider"])
        self.shape = TileShape(artifact.manifest.input_size[0], artifact.manifest.halo or 0)

    def __call__(self, tiles: Sequence[Tile | Canvas]) -> list[NDArray[np.float32]]:
        """The alpha of each tile's window, (S, S)."""
        return [self._alpha(tile) for tile in tiles if isinstance(tile, Tile)]

    def _alpha(self, tile: Tile) -> NDArray[np.float32]:
        inputs = {"image": tile.image[None], "mask": tile.mask[None], "frame": tile.frame[None]}
        return np.asarray(self._session.run(None, inputs)[0][0], np.float32)


def measure_harm(matte: Artifact, refiner: Artifact, names: Sequence[str] = PHOTOGRAPHS) -> list[Harm]:
    """The errors on each of the photographs.

    Args:
        matte: A matte artifact, whose mattes stand for the truth.
        refiner: The refine artifact.
        names: Of the photographs.
    """
    session = onnxruntime.InferenceSession(matte.file("model"), providers=["CPUExecutionProvider"])
    runner = TileRunner(refiner)
    found = []
    for name in names:
        image = _photograph(name)
        size = (image.shape[0], image.shape[1])
        alpha = session.run(None, {"image": fit(image, matte.manifest.input_size)[None]})[0][0]
        soft = restore(alpha, size)
        for kind, truth in ((name, soft), (f"{name}, sharp", sharpened(soft))):
            small = (size[1] // REDUCTION, size[0] // REDUCTION)
            coarse = np.asarray(cv2.resize(truth, small, interpolation=cv2.INTER_AREA), np.float32)
            refined = run(refine(image, coarse, runner.shape), runner)
            errors = [mean_absolute_error(each, truth) for each in (restore(coarse, size), refined.alpha)]
            found.append(Harm(kind, errors[0], errors[1], refined.report.tiles))
    return found


def sharpened(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """A matte with the same contour, which takes about one and a half pixels everywhere."""
    down, across = np.gradient(cv2.GaussianBlur(alpha, (0, 0), 1.0))
    slope = np.maximum(np.hypot(down, across), _LEAST_SLOPE)
    return np.clip((alpha - 0.5) / (_EDGE * slope) + 0.5, 0.0, 1.0).astype(np.float32)


def record_harm(refiner: Artifact, found: Sequence[Harm], command: str) -> None:
    """Write into the refiner's manifest how many mattes were refined, and how many of them became worse.

    One of which nothing was refined shows nothing.
    """
    figures = {
        "images": sum(each.tiles > 0 for each in found),
        "worse": sum(each.worse for each in found),
        "command": command,
    }
    manifest = refiner.manifest
    rewrite_manifest(refiner, replace(manifest, extra={**manifest.extra, FIELD: figures}))


def _photograph(name: str) -> NDArray[np.uint8]:
    from skimage import data  # slow to import

    picture = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    return np.ascontiguousarray(colours[..., :3])


def harm_table(found: Sequence[Harm]) -> str:
    """As lines of text for a person."""
    lines = [f"{'photograph':20}{'upsampled':>11}{'refined':>10}{'change':>9}{'tiles':>7}"]
    for each in found:
        change = each.refined / max(each.upsampled, 1e-9) - 1
        lines.append(f"{each.name:20}{each.upsampled:11.5f}{each.refined:10.5f}{change:+9.1%}{each.tiles:7}")
    return "\n".join(lines)


def default_artifacts() -> tuple[Path, Path]:
    """Where the package's matte model and refiner lie in a checkout."""
    matte = Path(__file__).parents[2] / "server" / "default_model"
    return matte, matte / "refine"
