"""A trained refiner becomes an artifact directory: fold, trace, prove, publish."""

import hashlib
import importlib.metadata
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from artifact import (
    SELF_TEST_ROLE,
    Artifact,
    Manifest,
    NewFile,
    SelfTest,
    check_target,
    refiner_tensors,
    write_artifact,
)
from model_export.errors import ExportError, ParityError, SourceError
from model_export.graph import OPSET, write_module
from model_export.onnx_export import SELF_TEST_FILE, WEIGHTS_FILE, WEIGHTS_ROLE, versions
from model_export.parity import BATCH as PROVEN_BATCH
from model_export.parity import Report
from model_export.precision import CANONICAL
from model_export.proof import SELF_TEST_TOLERANCE, Candidate, Proof, in_steps, prove, write_self_test
from model_export.refiner.runner import RefinerNetworkRunner, RefinerOnnxRunner, RefinerReference
from model_export.refiner.tiles import tile_inputs
from model_export.refiner.traceable import traceable_refiner
from model_export.sample_inputs import subject
from modeling.crm.config import ALIGNMENT, COMPACT, RESNET50, CrmConfig
from modeling.crm.network import CRM
from modeling.crm.receptive_field import halo
from modeling.crm.weights import load_refiner
from modeling.weights import WeightsError


@dataclass(frozen=True, slots=True)
class RefinerRequest:
    """What to export, and what its manifest shall say.

    Attributes:
        source: A file that `modeling.crm.weights.save_refiner` wrote.
        directory: Where the artifact goes; an artifact that is there already is replaced.
        tile: Side of the tiles, a multiple of 8.
        name: Of the model; None takes the file's.
        licence: Of the weights.
        origin: A sentence on where the weights come from.
        max_batch: Largest batch that a server should form.
        with_weights: Whether the artifact also holds the weights, for the torch backend.
    """

    source: Path
    directory: Path
    tile: int = 256
    name: str | None = None
    licence: str = "unspecified"
    origin: str | None = None
    max_batch: int = 16
    with_weights: bool = False


def export_refiner(request: RefinerRequest, report: Report) -> Artifact:
    """Export, prove and publish; nothing is published that does not compute what the network computes.

    Raises:
        ExportError: The request cannot be carried out, or the graph is not equal to the network.
        artifact.ArtifactError: The directory holds files that are not an artifact's.
    """
    kept = (WEIGHTS_FILE,) if request.with_weights else ()
    check_target(request.directory, (CANONICAL.file, SELF_TEST_FILE, *kept))
    network = read_refiner(request.source)
    manifest = _manifest(request, network.config)
    size, answer = manifest.input_size, answer_side(manifest)
    with tempfile.TemporaryDirectory(prefix="birefnet-export-") as folder:
        graph, self_test_file = Path(folder) / CANONICAL.file, Path(folder) / SELF_TEST_FILE
        report(f"tracing {manifest.backbone} at {size[0]}x{size[1]}")
        write_module(
            traceable_refiner(network, answer), manifest.inputs, manifest.outputs[0], graph, _metadata(manifest)
        )
        self_test = _self_test(network, size, answer)
        write_self_test(self_test, self_test_file)
        proof = prove_refiner(RefinerOnnxRunner(graph), manifest, network, self_test, report)
        report(f"{CANONICAL.name}\n{proof.table()}")
        if not proof.passed:
            raise ParityError(f"{CANONICAL.role}: not what the network computes; nothing was written")
        files = {
            CANONICAL.role: NewFile(graph, CANONICAL.file, CANONICAL.dtype),
            SELF_TEST_ROLE: NewFile(self_test_file, SELF_TEST_FILE),
        }
        if request.with_weights:
            files[WEIGHTS_ROLE] = NewFile(request.source, WEIGHTS_FILE, "fp32")
        figures = {CANONICAL.role: proof.to_mapping(versions())}
        return write_artifact(request.directory, replace(manifest, parity=figures), files)


def read_refiner(source: Path) -> CRM:
    """The refiner of a file.

    Raises:
        SourceError: There is none, or it is damaged.
    """
    try:
        return load_refiner(source)
    except (WeightsError, FileNotFoundError) as error:
        raise SourceError(str(error)) from error


def prove_refiner(
    runner: RefinerOnnxRunner, manifest: Manifest, network: CRM | None, self_test: SelfTest, report: Report
) -> Proof:
    """Measure a refiner's graph as a matte model's is measured; without the network, only against itself."""
    size, dtype = manifest.input_size, CANONICAL.dtype
    deviation = self_test.compare({"alpha": runner.run(self_test.inputs)}, dtype)
    candidate = Candidate(runner, size, min(PROVEN_BATCH, manifest.max_batch), dtype, CANONICAL.tolerance)
    reference = None if network is None else RefinerReference(network, size, answer_side(manifest))
    return prove(candidate, reference, deviation, report)


def answer_side(manifest: Manifest) -> int:
    """Side of what a refiner answers of a tile."""
    return int(manifest.outputs[0].shape[1])


def refiner_name(config: CrmConfig) -> str:
    """`crm-compact`, `crm-resnet50`, or the shape of one that has no name."""
    for name, known in (("compact", COMPACT), ("resnet50", RESNET50)):
        if config == known:
            return f"crm-{name}"
    blocks = "-".join(f"{stage.blocks}x{stage.width}" for stage in config.stages)
    return f"crm-{config.block}-{config.stem}-{blocks}-{config.latent}"


def _self_test(network: CRM, size: tuple[int, int], answer: int) -> SelfTest:
    inputs = tile_inputs(subject(*size)[None], answer)
    expected = in_steps(RefinerNetworkRunner(network, answer).run(inputs))
    return SelfTest(inputs, {"alpha": expected.astype(np.float32)}, SELF_TEST_TOLERANCE["image"])


def _manifest(request: RefinerRequest, config: CrmConfig) -> Manifest:
    tile, margin = request.tile, halo(config)
    if tile % ALIGNMENT or tile <= 2 * margin:
        expected = f"a tile of a multiple of {ALIGNMENT} that is wider than both halos, {2 * margin}"
        raise ExportError(f"expected {expected}, found {tile}")
    inputs, outputs = refiner_tensors(tile, tile - 2 * margin)
    statement = {} if request.origin is None else {"statement": request.origin}
    manifest = Manifest(
        name=request.source.stem if request.name is None else request.name,
        kind="refine",
        inputs=inputs,
        outputs=outputs,
        input_size=(tile, tile),
        max_batch=request.max_batch,
        backbone=refiner_name(config),
        patch_order=None,
        licence=request.licence,
        origin={
            **statement,
            "source": str(request.source),
            "sha256": hashlib.sha256(request.source.read_bytes()).hexdigest(),
            "exported_with": versions(),
        },
        halo=margin,
        self_test=SELF_TEST_TOLERANCE["image"],
    )
    return Manifest.parse(manifest.to_mapping())  # refuses a bad name before minutes are spent


def _metadata(manifest: Manifest) -> dict[str, str]:
    return {
        "name": manifest.name,
        "backbone": manifest.backbone,
        "licence": manifest.licence,
        "checkpoint_sha256": str(manifest.origin["sha256"]),
        "halo": str(manifest.halo),
        "opset": str(OPSET),
        "exported_by": f"birefnet-server {importlib.metadata.version('birefnet-server')}, torch {torch.__version__}",
    }
