"""Artifacts of weights and a self-test alone: what the torch backend serves, without the minutes of an export."""

from pathlib import Path

import numpy as np

from artifact import SELF_TEST_ROLE, Artifact, Manifest, NewFile, TensorSpec, Tolerance, open_artifact, write_artifact
from benchmarks.gpu.subjects import Context, Subject, alpha_of, release
from modeling.weights import save_state

MAX_BATCH = 32
_TOLERANCE = {"fp32": Tolerance(1e-3, 1e-4), "fp16": Tolerance(5e-2, 5e-3)}
"""Random weights amplify every rounding; what fp16 loses on them is a row of the section `parity`."""


def served_artifact(context: Context, subject: Subject) -> Artifact:
    """A subject as a server takes it; written once."""
    height, width = subject.size
    folder = context.folder / f"{subject.backbone}-{height}"
    if folder.exists():
        return open_artifact(folder, verify_hashes=False)
    context.folder.mkdir(parents=True, exist_ok=True)
    weights, self_test = folder.with_suffix(".safetensors"), folder.with_suffix(".npz")
    save_state(subject.network(), weights)
    images = subject.images(1)
    expected = alpha_of(context.plain(subject), images, context.device).numpy()
    release(context.device)
    np.savez(self_test, image=images, alpha=expected)
    manifest = Manifest(
        name=subject.backbone,
        kind="matte",
        inputs=(TensorSpec("image", "uint8", ("batch", height, width, 3)),),
        outputs=(TensorSpec("alpha", "float32", ("batch", height, width)),),
        input_size=subject.size,
        max_batch=MAX_BATCH,
        backbone=subject.backbone,
        licence="random weights",
        origin={"made_by": "benchmarks.gpu"},
        self_test=_TOLERANCE,
    )
    files = {
        "weights": NewFile(weights, "weights.safetensors", "fp32"),
        SELF_TEST_ROLE: NewFile(self_test, "self_test.npz"),
    }
    artifact = write_artifact(folder, manifest, files)
    _forget(weights, self_test)
    return artifact


def _forget(*drafts: Path) -> None:
    for draft in drafts:
        draft.unlink()
