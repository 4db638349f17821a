"""The artifact that refines mattes, for all models alike."""

from dataclasses import dataclass
from pathlib import Path

from artifact import Artifact, ArtifactError, TensorSpec, open_artifact
from matting.refinement import TileShape
from server import default_model
from server.pipeline.models import ModelsError

NO_HARM = "no_harm"
"""Field of a refiner's manifest: what was found when mattes of photographs were reduced and refined, as `images` and
how many of them came out `worse` than by upsampling. Only a refiner that made none worse is used without being asked
for."""


@dataclass(frozen=True, slots=True)
class Refiner:
    """A refiner that is served.

    Attributes:
        artifact: The exported directory, of kind `refine`.
        shape: Of the tiles that it takes.
    """

    artifact: Artifact
    shape: TileShape

    @property
    def artifact_id(self) -> str:
        """What the engine calls it; a slash, which no model's id begins with, keeps the two apart."""
        return f"/refiner@{self.artifact.sha256[:12]}"

    @property
    def harmless(self) -> bool:
        """Whether it was shown not to harm."""
        found = self.artifact.manifest.extra.get(NO_HARM)
        return isinstance(found, dict) and found.get("worse") == 0 and found.get("images", 0) > 0


def open_refiner(directory: Path) -> Refiner:
    """Open a refiner's artifact.

    Raises:
        ModelsError: It is no sound artifact of kind `refine` with the inputs and the output that tiles have.
    """
    try:
        artifact = open_artifact(directory)
    except ArtifactError as error:
        raise ModelsError(f"refiner: {error}") from error
    return make_refiner(artifact)


def make_refiner(artifact: Artifact) -> Refiner:
    """Check an artifact's manifest.

    Raises:
        ModelsError: As `open_refiner`.
    """
    manifest, directory = artifact.manifest, artifact.directory
    if manifest.kind != "refine":
        raise ModelsError(f"{directory}: expected an artifact of kind refine, found {manifest.kind}")
    side = manifest.input_size[0]
    if manifest.halo is None:
        raise ModelsError(f"{directory}: expected the halo of a refiner's tiles in the manifest, found none")
    try:
        shape = TileShape(side, manifest.halo)
    except ValueError as error:
        raise ModelsError(f"{directory}: {error}") from error
    inputs, outputs = tensors(shape)
    fits = _facts(manifest.inputs) == _facts(inputs) and _facts(manifest.outputs) == _facts(outputs)
    if not fits or manifest.input_size != (side, side):
        raise ModelsError(
            f"{directory}: expected {', '.join(map(_described, (*inputs, *outputs)))}, "
            f"found {', '.join(map(_described, (*manifest.inputs, *manifest.outputs)))}: export the refiner anew"
        )
    return Refiner(artifact, shape)


def embedded_refiner() -> Refiner:
    """The refiner in the package."""
    return open_refiner(default_model.refiner_directory())


def tensors(shape: TileShape) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a refiner, as its manifest has them."""
    side, answer = shape.side, shape.answer
    inputs = (
        TensorSpec("image", "uint8", ("batch", side, side, 3)),
        TensorSpec("mask", "float32", ("batch", side, side)),
        TensorSpec("frame", "float32", ("batch", 6)),
    )
    return inputs, (TensorSpec("alpha", "float32", ("batch", answer, answer)),)


def _facts(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Type and shape by name; the batch axis may have any length or symbol."""
    return {spec.name: (spec.dtype, spec.shape[1:]) for spec in specs}


def _described(spec: TensorSpec) -> str:
    return f"`{spec.name}` {spec.dtype} {list(spec.shape)}"
