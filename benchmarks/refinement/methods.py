"""What makes a matte of a photograph and a coarse matte: upsampling, filters, and the refiner on several schedules."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from artifact import check_refiner, open_artifact
from benchmarks.inference import SessionSettings
from benchmarks.refinement.answer import Answer, Method
from benchmarks.refinement.published import published
from benchmarks.refinement.scenes import Image, Plane
from benchmarks.refinement.work import cost_of
from matting.geometry import restore
from matting.refinement import (
    EAGER,
    GUIDED,
    GuidedFilter,
    Question,
    Refined,
    RefineOptions,
    Tile,
    TileShape,
    refine,
    run,
)
from modeling.crm.weights import load_refiner

ASKED = "refine=on"
"""Method of the networks' mattes only: the others have nothing soft that it would treat in another way."""

CHECKPOINT = Path(__file__).parents[2] / "training" / "checkpoints" / "refiner.safetensors"
"""Of the refiner that ships."""


class Refiner:
    """A refiner's artifact in ONNX Runtime, and what its answers cost."""

    def __init__(self, directory: Path, checkpoint: Path = CHECKPOINT) -> None:
        artifact = open_artifact(directory)
        check_refiner(artifact)
        manifest = artifact.manifest
        self._session = onnxruntime.InferenceSession(artifact.file("model"), SessionSettings().options())
        self.name = manifest.name
        self.sha256 = manifest.files["model"].sha256
        self.shape = TileShape(manifest.input_size[0], manifest.halo or 0)
        self.tile_giga = cost_of(load_refiner(checkpoint), self.shape).tile / 1e9

    def answer(self, questions: tuple[Question, ...]) -> Sequence[Plane]:
        """Alpha of every tile's window."""
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
        **published(checkpoint, refiner.shape),
        "ours": partial(ours, refiner),
        ASKED: partial(_asked, refiner),
    }


def ours(refiner: Refiner, image: Image, coarse: Plane) -> Answer:
    """What the server does with `refine=auto`."""
    return _refined(refiner, image, coarse, RefineOptions())


def _asked(refiner: Refiner, image: Image, coarse: Plane) -> Answer:
    return _refined(refiner, image, coarse, EAGER)


def _refined(refiner: Refiner, image: Image, coarse: Plane, options: RefineOptions) -> Answer:
    refined = run(refine(image, coarse, refiner.shape, options), refiner.answer)
    work = refined.report.tiles * refiner.tile_giga
    return Answer(refined.alpha, work, partial(_climb, refiner, image, coarse, refined))


def _climb(refiner: Refiner, image: Image, coarse: Plane, refined: Refined) -> list[Plane]:
    """What there is after each stage: the later ones change nothing."""
    found = [restore(coarse, (image.shape[0], image.shape[1]))]
    for stage in refined.report.stages[:-1]:
        answer = partial(_answer_until, refiner, stage.size[0])
        found.append(run(refine(image, coarse, refiner.shape), answer).alpha)
    return [*found, refined.alpha]


def _answer_until(refiner: Refiner, height: int, questions: tuple[Question, ...]) -> Sequence[Plane]:
    tiles = list(_tiles(questions))
    return (
        refiner.answer(questions)
        if tiles[0].frame[2] <= height
        else [tile.mask[tile.window(refiner.shape.answer)] for tile in tiles]
    )


def _upsampled(image: Image, coarse: Plane) -> Answer:
    return Answer(restore(coarse, (image.shape[0], image.shape[1])))


def _guided(image: Image, coarse: Plane) -> Answer:
    """What the server does where no refiner is served."""
    guided = GuidedFilter.for_image((image.shape[0], image.shape[1]), (coarse.shape[0], coarse.shape[1]))
    asked = refine(image, coarse, guided.shape, GUIDED)
    return Answer(run(asked, lambda tiles: [guided.answer(tile) for tile in _tiles(tiles)]).alpha)


def _tiles(questions: tuple[Question, ...]) -> Iterator[Tile]:
    return (question for question in questions if isinstance(question, Tile))
