"""The image files are in step with the package, with each other, and with the manifests."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRACES = PROJECT["optional-dependencies"]["otel"]  # off by default, but nobody builds an image to turn them on
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    return normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


def locked(file: str) -> dict[str, str]:
    text = (ROOT / "docker" / file).read_text()
    entries = re.findall(
        r"^([a-zA-Z0-9_.-]+)==(\S+)(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.M
    )
    assert len(entries) == len(re.findall(r"^[a-zA-Z0-9]", text, re.M)), "a line without hashes"
    return {normal(name): version for name, version, _ in entries}


def test_the_lock_of_the_cpu_image_has_every_dependency_and_no_torch():
    names = set(locked("cpu.lock"))
    assert {name_of(requirement) for requirement in (*PROJECT["dependencies"], *TRACES)} <= names
    assert not names & {"torch", "onnx", "triton"}


def test_the_gpu_image_has_the_same_with_another_runtime():
    expected = [
        "onnxruntime-gpu[cuda,cudnn]" + requirement.removeprefix("onnxruntime")
        if name_of(requirement) == "onnxruntime"
        else requirement
        for requirement in (*PROJECT["dependencies"], *TRACES)
    ]
    lines = (ROOT / "docker" / "gpu.in").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == expected
    names = set(locked("gpu.lock"))
    assert "onnxruntime-gpu" in names
    assert not names & {"onnxruntime", "torch"}, "both runtimes fill one folder"


def test_the_tensorrt_image_has_what_talks_to_the_gpu_beside_the_same():
    wanted = (*PROJECT["dependencies"], *TRACES, *PROJECT["optional-dependencies"]["tensorrt"])
    names = set(locked("tensorrt.lock"))
    assert {name_of(requirement) for requirement in wanted} <= names
    assert not names & {"torch", "onnx", "tensorrt"}, "NVIDIA's image has TensorRT"


def test_the_targets_are_there_and_the_last_is_the_default():
    targets = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    assert {"cpu", "gpu", "tensorrt", "export", "dev"} <= set(targets)
    assert targets[-1] == "cpu"


def test_everything_that_is_installed_is_copied():
    packages = re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M)
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert sorted(packages) == sorted(built)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in packages} <= set(ignored)


def test_the_gpu_image_looks_for_the_cuda_libraries_where_their_wheels_put_them():
    """One folder per part until CUDA 12 (nvidia/cublas/lib, ...), one for all of them since 13; cuDNN apart."""
    (cuda,) = [found[1] for name in locked("gpu.lock") if (found := re.fullmatch(r"nvidia-cudnn-cu(\d+)", name))]
    assert int(cuda) >= 13, "other folders"
    (text,) = re.findall(r"^ENV LD_LIBRARY_PATH=(\S+)", DOCKERFILE, re.M)
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)", DOCKERFILE, re.M)
    packages = f"/opt/venv/lib/python{python}/site-packages/nvidia"
    assert text.split(":") == [f"{packages}/cu{cuda}/lib", f"{packages}/cudnn/lib"]


def test_the_wheel_is_built_by_what_the_project_asks_for_in_locked_versions():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = (ROOT / "docker" / "build.in").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == wanted
    assert {name_of(requirement) for requirement in wanted} <= set(locked("build.lock"))
    (command,) = re.findall(r"^RUN pip wheel .*", DOCKERFILE, re.M)
    assert "--no-build-isolation" in command
    assert DOCKERFILE.index("--requirement /locks/build.lock") < DOCKERFILE.index(command)


def test_every_lock_is_written_by_one_command():
    makefile = (ROOT / "Makefile").read_text()
    assert {path.name for path in (ROOT / "docker").glob("*.lock")} == set(re.findall(r"-o docker/(\S+)", makefile))


def test_this_package_comes_from_its_wheel_and_not_from_the_index():
    for line in re.findall(r"^(?:RUN|    &&) .*pip install .*", DOCKERFILE, re.M):
        assert "birefnet-server" not in line or "--no-index" in line, line
        assert "--find-links" not in line or "--no-index" in line, line


def test_labels_and_tags_have_the_version_of_the_package():
    assert set(re.findall(r'image\.version="([^"]*)"', DOCKERFILE)) == {PROJECT["version"]}
    for path in ("k8s/base", "k8s/components/gpu", "k8s/components/tensorrt", "k8s/overlays/kserve"):
        for image in yaml.safe_load((ROOT / path / "kustomization.yaml").read_text())["images"]:
            assert image["newTag"].startswith(f"{PROJECT['version']}-"), path


def test_the_user_is_the_one_of_the_manifests():
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    user = deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in DOCKERFILE


def test_compose_builds_targets_that_are_there_and_mounts_files_that_are_there():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        if "build" in service:
            assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", DOCKERFILE, re.M)
            assert int(service["stop_grace_period"].removesuffix("s")) >= 10 + 60 + 12, (
                "drain_delay_s, drain_timeout_s, end"
            )
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source
