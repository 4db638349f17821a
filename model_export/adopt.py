"""A BiRefNet ONNX file that someone already has becomes an artifact, held against the file itself."""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from artifact import SELF_TEST_ROLE, Artifact, Manifest, NewFile, SelfTest, check_target, write_artifact
from matting.normalisation import DEVIATION, MEAN
from model_export.checkpoint import warn_of_licence
from model_export.errors import ExportError, ParityError
from model_export.foreign_graph import ForeignGraph
from model_export.graph import signature
from model_export.onnx_export import SELF_TEST_FILE, check_size, versions
from model_export.parity import BATCH, GraphReference, Report
from model_export.precision import CANONICAL, PRECISIONS
from model_export.proof import SELF_TEST_TOLERANCE, Candidate, prove, run_self_test, write_self_test
from model_export.runner import OnnxRunner, filled, logistic, normalised
from model_export.sample_inputs import sample_inputs, subject
from model_export.sessions import LOAD_FAILURES, open_session

ADOPTED = "adopted"
"""Key of the manifest's `origin` that says how the file is to be read."""

SAME_BATCH = 1e-2
"""Alpha of one image, alone and in a batch: what a graph with a baked-in batch gets wrong is of the order of one."""

Gives = Literal["logits", "alpha"]


@dataclass(frozen=True, slots=True)
class AdoptRequest:
    """What to adopt, and what its manifest shall say.

    Attributes:
        source: An ONNX file: one input (N, 3, H, W) of normalised floats; the last output is the matte.
        directory: Where the artifact goes; an artifact that is there already is replaced.
        size: (height, width), for a file that leaves them free.
        gives: What the last output is; None finds out.
        name: Of the model; None takes the file's.
        licence: Of the weights.
        origin: A sentence on where the file comes from.
        max_batch: Largest batch that a server should form of a file that leaves it free.
    """

    source: Path
    directory: Path
    size: tuple[int, int] | None = None
    gives: Gives | None = None
    name: str | None = None
    licence: str = "unspecified"
    origin: str | None = None
    max_batch: int = 16


class SourceGraph:
    """The file as it came, in ONNX Runtime: (B, H, W, 3) uint8 to (B, H, W) alpha."""

    def __init__(self, session: onnxruntime.InferenceSession, output: str, gives: Gives, batch: int | None) -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._output = output
        self._gives = gives
        self._batch = batch

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._alpha(self.raw(normalised(images)), images)

    def rounded(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same for images that were normalised in float32, by one multiplication and addition."""
        deviation = np.array(DEVIATION)
        scale, shift = (1.0 / (255.0 * deviation)).astype(np.float32), (-np.array(MEAN) / deviation).astype(np.float32)
        tensor = np.ascontiguousarray((images.astype(np.float32) * scale + shift).transpose(0, 3, 1, 2))
        return self._alpha(self.raw(tensor), images)

    def raw(self, tensor: NDArray[np.floating]) -> NDArray[np.floating]:
        """What the output is for normalised images."""
        tensor = tensor.astype(np.float16 if self._input.type == "tensor(float16)" else np.float32)
        batch = self._batch or len(tensor)
        parts = [tensor[start : start + batch] for start in range(0, len(tensor), batch)]
        return np.concatenate([self._run(filled(part, batch))[: len(part)] for part in parts])

    def _alpha(self, found: NDArray[np.floating], images: NDArray[np.uint8]) -> NDArray[np.float32]:
        alpha = logistic(found) if self._gives == "logits" else found.astype(np.float32)
        return alpha.reshape(images.shape[:3])

    def _run(self, tensor: NDArray[np.generic]) -> NDArray[np.floating]:
        try:
            output: NDArray[np.floating] = self._session.run([self._output], {self._input.name: tensor})[0]
        except LOAD_FAILURES as error:
            found = str(error).splitlines()[0]
            raise ExportError(f"expected a graph that takes {tensor.shape}, found: {found}") from error
        if output.size != tensor.size // tensor.shape[1]:
            raise ExportError(f"expected a matte for each of {tensor.shape}, found {output.shape}")
        return output


def source_graph(path: Path, manifest: Manifest) -> SourceGraph:
    """The file that an artifact was adopted from.

    Raises:
        ExportError: It cannot be loaded, or is not of that kind.
    """
    how: dict[str, Any] = manifest.origin[ADOPTED]
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    if how["output"] not in names:
        raise ExportError(f"{path}: expected the output `{how['output']}`, found {', '.join(names)}")
    fixed = manifest.inputs[0].shape[0]
    return SourceGraph(session, how["output"], how["gives"], fixed if isinstance(fixed, int) else None)


def adopt(request: AdoptRequest, report: Report) -> Artifact:
    """Add layout, normalisation and sigmoid to a file, prove that nothing else changed, and publish.

    Raises:
        ExportError: The file is no such graph, or what it gives cannot be told.
        artifact.ArtifactError: The directory holds files that are not an artifact's.
    """
    check_target(request.directory, (CANONICAL.file, SELF_TEST_FILE))
    warn_of_licence(request.licence, report)
    report(f"reading {request.source}")
    graph = ForeignGraph(request.source)
    size = graph.fix_size(request.size)
    check_size(size)
    session = open_session(request.source)
    gives = _what_it_gives(graph, SourceGraph(session, graph.output, "alpha", graph.batch), size, request.gives)
    if graph.batch is None and not _takes_batches(SourceGraph(session, graph.output, gives, None), size):
        report("its batch is free by name only: a batch of two fails, so one image at a time it is")
        graph.batch = 1
    source = SourceGraph(session, graph.output, gives, graph.batch)
    dtype, output = graph.dtype, graph.output
    report(f"`{graph.input}` at {size[0]}x{size[1]}, batch {graph.batch or 'free'}, to `{output}`: {gives}, {dtype}")
    manifest = _manifest(request, graph, size, {"output": output, "gives": gives})
    with tempfile.TemporaryDirectory(prefix="birefnet-adopt-") as folder:
        model, self_test_file = Path(folder) / CANONICAL.file, Path(folder) / SELF_TEST_FILE
        graph.wrap(size, logits=gives == "logits", path=model)
        self_test = _self_test(source, size)
        write_self_test(self_test, self_test_file)
        runner = OnnxRunner(model)
        tolerance = next(each.tolerance for each in PRECISIONS if each.dtype == dtype)
        candidate = Candidate(runner, size, graph.batch or min(BATCH, manifest.max_batch), dtype, tolerance)
        proof = prove(candidate, GraphReference(source, size), run_self_test(self_test, runner, dtype), report)
        report(proof.table())
        if not proof.passed:
            raise ParityError("the artifact does not give what the file gives; nothing was written")
        return write_artifact(
            request.directory,
            replace(manifest, parity={CANONICAL.role: proof.to_mapping(versions())}),
            {
                CANONICAL.role: NewFile(model, CANONICAL.file, dtype),
                SELF_TEST_ROLE: NewFile(self_test_file, SELF_TEST_FILE),
            },
        )


def _what_it_gives(graph: ForeignGraph, source: SourceGraph, size: tuple[int, int], told: Gives | None) -> Gives:
    """Logits leave [0, 1] on some sample image; alpha never does, and comes from a sigmoid."""
    for _, image in sample_inputs(size):
        found = source.raw(normalised(image[None]))
        if not np.isfinite(found).all():
            raise ExportError("expected numbers in the last output, found some that are none")
        if found.min() < 0.0 or found.max() > 1.0:
            if told == "alpha":
                raise ExportError(f"expected alpha in [0, 1], found {found.min():.3g} to {found.max():.3g}")
            return "logits"
    if told is None and not graph.ends_in_sigmoid:
        raise ExportError(
            "expected logits below 0 or above 1 on some sample image, or a sigmoid at the end, found neither: "
            "say --gives logits or --gives alpha"
        )
    return told or "alpha"


def _takes_batches(source: SourceGraph, size: tuple[int, int]) -> bool:
    images = np.stack([subject(*size), np.full((*size, 3), 255, np.uint8)])
    try:
        together = source(images)
    except ExportError:
        return False
    return bool(np.abs(together - np.concatenate([source(image[None]) for image in images])).max() < SAME_BATCH)


def _self_test(source: SourceGraph, size: tuple[int, int]) -> SelfTest:
    image = subject(*size)[None]
    taken, given = signature("image", size)
    return SelfTest({taken.name: image}, {given.name: source(image)}, SELF_TEST_TOLERANCE["image"])


def _manifest(request: AdoptRequest, graph: ForeignGraph, size: tuple[int, int], how: dict[str, str]) -> Manifest:
    image, alpha = graph.signature(size)
    statement = {} if request.origin is None else {"statement": request.origin}
    with request.source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    origin = {"source": str(request.source.resolve()), "sha256": digest, ADOPTED: how, "exported_with": versions()}
    manifest = Manifest(
        name=request.source.stem if request.name is None else request.name,
        kind="matte",
        inputs=(image,),
        outputs=(alpha,),
        input_size=size,
        max_batch=graph.batch or request.max_batch,
        backbone="unknown",
        licence=request.licence,
        patch_order=None,
        origin={**statement, **origin},
        self_test=SELF_TEST_TOLERANCE["image"],
    )
    return Manifest.parse(manifest.to_mapping())
