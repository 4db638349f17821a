"""The init container's script makes an artifact once, whatever ends it and however many pods ask for it at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifact import open_artifact

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "k8s" / "components" / "gpu" / "prepare.sh"
CHECKPOINT = ROOT / "training" / "checkpoints" / "compact.safetensors"
STUB = """#!/bin/sh
# Stands for birefnet-export, which takes minutes: the artifact of a source that is no file is not made.
echo "$@" >> "$COUNT"
mkdir -p "$4"
echo half > "$4/model.onnx"
[ "$2" = broken ] && exit 2
echo '{}' > "$4/model.json"
"""


class Pods:
    """What the script is started with, and what it has left."""

    def __init__(self, folder: Path, export: str | None) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        (folder / "bin").mkdir()
        run = f'#!/bin/sh\nexec "{sys.executable}"'  # a link would be another interpreter than that of its environment
        scripts = {"python": f'{run} "$@"\n', "birefnet-export": export or f'{run} -m model_export "$@"\n'}
        for name, text in scripts.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def start(self, name: str, source: str) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MODEL_SOURCE": source,
            "CACHE": str(self.cache),
            "LINK": str(self.folder / name),
            "COUNT": str(self.folder / "count"),
        }
        return subprocess.Popen(
            ["sh", str(SCRIPT)], env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True
        )

    def run(self, name: str, source: str) -> int:
        process = self.start(name, source)
        process.communicate(timeout=250)
        return process.returncode

    @property
    def exports(self) -> list[str]:
        return (self.folder / "count").read_text().splitlines()


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(tmp_path, STUB)


pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not here")


def test_pods_that_ask_at_once_get_one_artifact(pods: Pods):
    started = [pods.start(f"pod-{number}", "owner/name@1") for number in range(4)]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert len(pods.exports) == 1
    targets = {(pods.folder / f"pod-{number}").resolve() for number in range(4)}
    (target,) = targets
    assert (target / "model.json").exists()
    assert all(text.splitlines()[-1] == f"artifact: {target}" for text in said)
    assert {path.name for path in pods.cache.iterdir()} == {target.name, f"{target.name}.lock"}


def test_another_source_is_another_artifact_and_the_link_follows(pods: Pods):
    assert [pods.run("pod", source) for source in ("owner/name@1", "owner/name@2", "owner/name@2")] == [0, 0, 0]
    assert len(pods.exports) == 2
    folders = [path for path in pods.cache.iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert (pods.folder / "pod").resolve() in folders


def test_an_export_that_fails_leaves_nothing_and_is_tried_again(pods: Pods):
    assert pods.run("pod", "broken") == 2
    assert pods.run("pod", "broken") == 2
    assert len(pods.exports) == 2
    assert [path.suffix for path in pods.cache.iterdir()] == [".lock"]
    assert not (pods.folder / "pod").is_symlink()


def test_what_a_killed_pod_left_is_no_hindrance(pods: Pods):
    assert pods.run("pod", "owner/name@1") == 0
    (target,) = [path for path in pods.cache.iterdir() if path.is_dir()]
    target.rename(pods.cache / f".making-{target.name}")
    assert pods.run("pod", "owner/name@1") == 0
    assert {path.name for path in pods.cache.iterdir()} == {target.name, f"{target.name}.lock"}


@pytest.mark.slow
def test_a_checkpoint_becomes_an_artifact(tmp_path: Path):
    pods = Pods(tmp_path, None)
    assert pods.run("pod", str(CHECKPOINT)) == 0
    assert open_artifact(pods.folder / "pod").manifest.kind == "matte"
