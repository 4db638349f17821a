"""The artifact that refines mattes, for all models alike."""

from dataclasses import dataclass
from pathlib import Path

from artifact import Artifact, ArtifactError, check_refiner, open_artifact
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
    try:
        answer, manifest = check_refiner(artifact), artifact.manifest
        shape = TileShape(manifest.input_size[0], manifest.halo or 0)
    except ArtifactError as error:
        raise ModelsError(str(error)) from error
    except ValueError as error:
        raise ModelsError(f"{artifact.directory}: {error}") from error
    if answer != shape.answer:
        raise ModelsError(f"{artifact.directory}: expected answers of {shape.answer} pixels a side, found {answer}")
    return Refiner(artifact, shape)


def embedded_refiner() -> Refiner:
    """The refiner in the package."""
    return open_refiner(default_model.refiner_directory())
