"""The init container's script makes an artifact once, whatever ends it and however many pods ask for it at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from artifact import open_artifact

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "k8s" / "components" / "gpu" / "prepare.sh"
PLAN_SCRIPT = ROOT / "k8s" / "components" / "tensorrt" / "plan.sh"
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
            self.install(name, text)

    def install(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, name: str, source: str, script: Path = SCRIPT, **more: str) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MODEL_SOURCE": source,
            "CACHE": str(self.cache),
            "LINK": str(self.folder / name),
            "COUNT": str(self.folder / "count"),
            **more,
        }
        return subprocess.Popen(
            ["sh", str(script)], env=environment, cwd=self.folder, stdout=subprocess.PIPE, text=True
        )

    def run(self, name: str, source: str, **more: str) -> int:
        process = self.start(name, source, SCRIPT, **more)
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


def test_other_precisions_are_another_artifact(pods: Pods):
    assert pods.run("pod", "owner/name@1") == 0
    assert pods.run("pod", "owner/name@1", PRECISIONS="fp16 fp16-tensorrt") == 0
    assert [line.partition(" --precision")[2] for line in pods.exports] == ["", " fp16 fp16-tensorrt"]
    assert len([path for path in pods.cache.iterdir() if path.is_dir()]) == 2


def test_a_plan_is_built_where_there_is_none_and_by_one_pod_at_a_time(pods: Pods):
    """Without TensorRT nothing can be found, so every pod comes to the build, which here says whether it is alone."""
    assert pods.run("pod", "owner/name@1") == 0
    busy = pods.folder / "busy"
    pods.install("birefnet-export", f'#!/bin/sh\nmkdir "{busy}" || exit 9\necho "$@" >> "$COUNT"\nrmdir "{busy}"\n')
    started = [pods.start("pod", "", PLAN_SCRIPT) for _ in range(3)]
    for process in started:
        process.communicate(timeout=100)
    assert [process.returncode for process in started] == [0] * 3
    assert pods.exports[1:] == [f"tensorrt {(pods.folder / 'pod').resolve()}"] * 3


def test_a_plan_that_is_there_is_not_built_again(pods: Pods):
    assert pods.run("pod", "owner/name@1") == 0
    modules = pods.folder / "modules"  # in the place of a GPU
    modules.mkdir()
    (modules / "plans.py").write_text(
        "from types import SimpleNamespace\n"
        "class PlanError(Exception): pass\n"
        "def open_platform(): return SimpleNamespace(version='10.1', cuda=SimpleNamespace(name='NVIDIA H200'))\n"
    )
    (modules / "artifact.py").write_text(
        "class ArtifactError(Exception): pass\n"
        "def open_artifact(directory): return directory\n"
        "def find_plan(*found): return ' '.join(found)\n"
    )
    process = pods.start("pod", "", PLAN_SCRIPT, PYTHONPATH=str(modules))
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert said == f"plan: {(pods.folder / 'pod').resolve()} NVIDIA H200 10.1\n"
    assert len(pods.exports) == 1


class TestJobOfKServe:
    """It makes the artifact where pods look for it, and these may come first."""

    def run(self, pods: Pods, source: str) -> int:
        documents = yaml.safe_load_all((ROOT / "k8s/overlays/kserve/models.yaml").read_text())
        (job,) = [document for document in documents if document["kind"] == "Job"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        script = pods.folder / "job.sh"
        script.write_text(f"set -eu\n{container['args'][0]}")
        assert container["command"] == ["/bin/sh", "-euc"]
        process = pods.start("pod", source, script, TARGET=str(self.target(pods)))
        said, _ = process.communicate(timeout=60)
        assert process.returncode or said == f"artifact: {self.target(pods)}\n"
        return process.returncode

    @staticmethod
    def target(pods: Pods) -> Path:
        return pods.folder / "models" / "birefnet"

    @pytest.mark.parametrize("mounted", [False, True])
    def test_it_is_made_once_also_where_a_pod_has_mounted_the_empty_folder(self, pods: Pods, *, mounted: bool):
        """The kubelet makes a `subPath` that is not there, as KServe mounts pvc://CLAIM/PATH; root owns it."""
        self.target(pods).parent.mkdir()
        if mounted:
            self.target(pods).mkdir(mode=0o555)
        assert [self.run(pods, "owner/name@1") for _ in range(2)] == [0, 0]
        assert len(pods.exports) == 1
        assert {path.name for path in self.target(pods).iterdir()} == {"model.json", "model.onnx"}
        assert [path.name for path in self.target(pods).parent.iterdir()] == ["birefnet"]

    def test_what_has_failed_is_made_anew(self, pods: Pods):
        self.target(pods).parent.mkdir()
        assert self.run(pods, "broken") == 2
        assert not self.target(pods).exists()
        assert self.run(pods, "owner/name@1") == 0
        assert (self.target(pods) / "model.json").exists()


@pytest.mark.slow
def test_a_checkpoint_becomes_an_artifact(tmp_path: Path):
    pods = Pods(tmp_path, None)
    assert pods.run("pod", str(CHECKPOINT)) == 0
    assert open_artifact(pods.folder / "pod").manifest.kind == "matte"
