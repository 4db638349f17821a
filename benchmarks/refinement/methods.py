"""What makes a matte of a photograph and a coarse matte: upsampling, filters, and the refiner on several schedules."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from artifact import open_artifact
from benchmarks.inference import SessionSettings
from benchmarks.refinement.answer import Answer, Method
from benchmarks.refinement.published import published
from benchmarks.refinement.scenes import Image, Plane
from matting.geometry import restore
from matting.refinement import GuidedFilter, Question, Refined, Tile, TileShape, refine, run


class Refiner:
    """A refiner's artifact in ONNX Runtime."""

    def __init__(self, directory: Path) -> None:
        artifact = open_artifact(directory)
        manifest = artifact.manifest
        self._session = onnxruntime.InferenceSession(artifact.file("model"), SessionSettings().options())
        self.name = manifest.name
        self.sha256 = manifest.files["model"].sha256
        self.shape = TileShape(manifest.input_size[0], manifest.halo or 0)

    def answer(self, questions: tuple[Question, ...]) -> Sequence[Plane]:
        """Alpha of every tile."""
        tiles = [question for question in questions if isinstance(question, Tile)]
        feeds = {
            "image": np.stack([tile.image for tile in tiles]),
            "mask": np.stack([tile.mask for tile in tiles]),
            "frame": np.stack([tile.frame for tile in tiles]),
        }
        return list(self._session.run(None, feeds)[0])


def methods(refiner: Refiner, checkpoint: Path) -> Mapping[str, Method]:
    """All of them by name, the one that the others are compared with first."""
    return {
        "upsampled": _upsampled,
        "guided filter": _guided,
        **published(checkpoint),
        "ours": partial(ours, refiner),
    }


def ours(refiner: Refiner, image: Image, coarse: Plane) -> Answer:
    """What the server does with `refine=on`."""
    refined = run(refine(image, coarse, refiner.shape), refiner.answer)
    answer = _answered(refined, refiner.shape)
    answer.stages = partial(_climb, refiner, image, coarse, refined)
    return answer


def _climb(refiner: Refiner, image: Image, coarse: Plane, refined: Refined) -> list[Plane]:
    """What there would be after each stage: the image at that stage's size, refined, and upsampled."""
    size = image.shape[0], image.shape[1]
    found = [restore(coarse, size)]
    for stage in refined.report.stages[:-1]:
        small = np.asarray(cv2.resize(image, stage.size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        found.append(restore(run(refine(small, coarse, refiner.shape), refiner.answer).alpha, size))
    return [*found, refined.alpha]


def _upsampled(image: Image, coarse: Plane) -> Answer:
    return Answer(restore(coarse, (image.shape[0], image.shape[1])))


def _guided(image: Image, coarse: Plane) -> Answer:
    guided = GuidedFilter()
    refined = run(refine(image, coarse, guided.shape), lambda tiles: [guided.answer(tile) for tile in _tiles(tiles)])
    return _answered(refined, guided.shape)


def _tiles(questions: tuple[Question, ...]) -> Iterator[Tile]:
    return (question for question in questions if isinstance(question, Tile))


def _answered(refined: Refined, shape: TileShape) -> Answer:
    return Answer(refined.alpha, refined.report.tiles * shape.side**2 / 1e6)
