"""What refiners take and give: the contract of artifacts of kind `refine`."""

from artifact.directory import Artifact, ArtifactError
from artifact.manifest import TensorSpec

_BATCH = "batch"


def refiner_tensors(side: int, answer: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a refiner, as its manifest has them.

    Args:
        side: Height and width of its tiles, T.
        answer: Height and width of what it answers of one, S.
    """
    inputs = (
        TensorSpec("image", "uint8", (_BATCH, side, side, 3)),
        TensorSpec("mask", "float32", (_BATCH, side, side)),
        TensorSpec("frame", "float32", (_BATCH, 6)),
    )
    return inputs, (TensorSpec("alpha", "float32", (_BATCH, answer, answer)),)


def check_refiner(artifact: Artifact) -> int:
    """Check that an artifact is a refiner that can be asked.

    Returns:
        Height and width of its answers.

    Raises:
        ArtifactError: It is of another kind, says nothing of its halo, or takes or gives something else.
    """
    manifest, directory = artifact.manifest, artifact.directory
    if manifest.kind != "refine":
        raise ArtifactError(f"{directory}: expected an artifact of kind refine, found {manifest.kind}")
    if manifest.halo is None:
        raise ArtifactError(f"{directory}: expected the halo of a refiner's tiles in the manifest, found none")
    side, sides = manifest.input_size[0], [spec.shape[1] for spec in manifest.outputs if len(spec.shape) == 3]
    answer = sides[0] if len(sides) == 1 and isinstance(sides[0], int) else side - 2 * manifest.halo
    inputs, outputs = refiner_tensors(side, min(answer, side - 2 * manifest.halo))
    fits = _facts(manifest.inputs) == _facts(inputs) and _facts(manifest.outputs) == _facts(outputs)
    if not fits or manifest.input_size != (side, side):
        expected, found = (
            ", ".join(map(_described, both)) for both in ((*inputs, *outputs), (*manifest.inputs, *manifest.outputs))
        )
        raise ArtifactError(
            f"{directory}: expected {expected}, found {found}: export the refiner anew, or copy the package's again"
        )
    return answer


def _facts(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Type and shape by name; the batch axis may have any length or symbol."""
    return {spec.name: (spec.dtype, spec.shape[1:]) for spec in specs}


def _described(spec: TensorSpec) -> str:
    return f"`{spec.name}` {spec.dtype} {list(spec.shape)}"
