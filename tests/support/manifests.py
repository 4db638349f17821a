"""The overlays as `kubectl kustomize` renders them, and the pods that come of them, KServe's included."""

import functools
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from k8s.check.kserve import as_pod
from server.settings import Settings
from tests.support.processes import ROOT

K8S = ROOT / "k8s"
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")

Object = dict[str, Any]
Objects = list[Object]


@functools.cache
def rendered(overlay: str) -> Objects:
    found = subprocess.run(["kubectl", "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-500:]
    return [entry for entry in yaml.safe_load_all(found.stdout) if entry]


def every(objects: Objects, kind: str) -> Objects:
    return [entry for entry in objects if entry["kind"] == kind]


def only(objects: Objects, kind: str) -> Object:
    (found,) = every(objects, kind)
    return found


def server_pod(objects: Objects) -> Object:
    """What runs the server: the template of the Deployment, or what KServe makes of its two objects."""
    if found := every(objects, "Deployment"):
        (deployment,) = found
        template: Object = deployment["spec"]["template"]
        return template
    return as_pod(only(objects, "ServingRuntime"), only(objects, "InferenceService"))


def pods(objects: Objects) -> list[tuple[Object, Object, dict[str, str]]]:
    """Of every workload that runs the server: pod spec, container, environment."""
    found = []
    settings = {e["metadata"]["name"]: e["data"] for e in objects if e["kind"] == "ConfigMap"}
    spec = server_pod(objects)["spec"]
    for container in spec["containers"]:
        if "envFrom" in container:
            environment = settings[container["envFrom"][0]["configMapRef"]["name"]]
        else:
            name = only(objects, "InferenceService")["metadata"]["name"]
            environment = {e["name"]: e["value"].replace("{{.Name}}", name) for e in container["env"]}  # as KServe does
        found.append((spec, container, environment))
    return found


def settings_of(environment: dict[str, str]) -> Settings:
    """As the process reads them; an unknown name or a contradiction is an error."""
    return Settings(**{name.removeprefix("BIREFNET_").lower(): value for name, value in environment.items()})
