"""The artifact directory: the one thing that crosses from the torch side to the serving side.

A directory with `model.json` (the manifest) and the files it names. `open_artifact` reads and proves one,
`write_artifact` makes one, `load_self_test` gives the test that a device must pass before it serves it.
"""

from artifact.directory import Artifact, ArtifactError, open_artifact
from artifact.fields import ManifestError
from artifact.manifest import FORMAT_VERSION, MANIFEST_NAME, FileEntry, Io, Manifest, TensorSpec, Tolerance
from artifact.plans import PlanKey, Profile, find_plan, plan_source, plans_of
from artifact.refiner import check_refiner, refiner_tensors
from artifact.self_test import SELF_TEST_ROLE, Deviation, SelfTest, load_self_test
from artifact.writing import NewFile, check_target, rewrite_manifest, write_artifact

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "SELF_TEST_ROLE",
    "Artifact",
    "ArtifactError",
    "Deviation",
    "FileEntry",
    "Io",
    "Manifest",
    "ManifestError",
    "NewFile",
    "PlanKey",
    "Profile",
    "SelfTest",
    "TensorSpec",
    "Tolerance",
    "check_refiner",
    "check_target",
    "find_plan",
    "load_self_test",
    "open_artifact",
    "plan_source",
    "plans_of",
    "refiner_tensors",
    "rewrite_manifest",
    "write_artifact",
]
