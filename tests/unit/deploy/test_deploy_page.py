"""docs/deploy.md: what its commands and its files name is there, and what it advises renders and is accepted."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.api.rpc.serving import CALLS
from tests.support.manifests import K8S, VERSION, Objects, every, needs_kubectl, only, rendered, settings_of
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip() and not line.startswith("#")
]
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
ROUTES = [document for block in BLOCKS if "parentRefs" in block for document in yaml.safe_load_all(block)]
(ENVOY,) = [yaml.safe_load(block) for block in BLOCKS if "static_resources" in block]
SERVICES = list(dict.fromkeys(call.split("/")[1] for call in CALLS))


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def test_there_are_commands_of_every_kind():
    first = [words(command)[0] for command in COMMANDS]
    assert len(COMMANDS) > 40
    assert {"docker", "kubectl", "curl", "make"} <= set(first)


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search(r"(?:-[kf] |@|xargs|<)", c)])
def test_files_that_are_named_are_there(command):
    for found in re.findall(r"(?:\b(?:k8s|docs|docker)/[\w./-]+)", command):
        assert (ROOT / found).exists(), found


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("docker build ")])
def test_targets_and_tags_are_those_of_the_manifests(command):
    (target,) = re.findall(r"--target (\S+)", command)
    assert re.search(rf"^FROM \S+ AS {target}$", (ROOT / "Dockerfile").read_text(), re.M)
    (tag,) = re.findall(r"-t (\S+)", command)
    image, _, found = tag.partition(":")
    assert found == f"{VERSION}-{target}"
    text = "".join(path.read_text() for path in K8S.rglob("kustomization.yaml"))
    assert f"newName: registry.example.com/{image.rpartition('/')[2]}" in text
    assert f"newTag: {found}" in text


def test_every_target_is_weighed():
    weighed = re.findall(r"^\| `(\w+)` \| \d+ MB", PAGE, re.M)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    (loop,) = re.findall(r"for target in ([a-z ]+);", (ROOT / "Makefile").read_text())
    shared = {"wheel", "runtime", *(name for name in stages if name.endswith("-packages"))}
    assert weighed == loop.split()
    assert set(weighed) == set(stages) - shared


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_targets_of_make_are_there(command):
    assert re.search(rf"^{words(command)[1]}:", (ROOT / "Makefile").read_text(), re.M)


@needs_kubectl
class TestNames:
    """What kubectl is asked for is what the overlays of that step make; KServe's own objects have its names."""

    OF_KSERVE = ("deployment/birefnet-predictor", "job/birefnet-export")

    @staticmethod
    def made(overlay: str) -> set[str]:
        kinds = {f"{entry['kind'].lower()}/{entry['metadata']['name']}" for entry in rendered(overlay)}
        return kinds | {f"{entry['kind'].lower()} {entry['metadata']['name']}" for entry in rendered(overlay)}

    @pytest.mark.parametrize("command", [c for c in COMMANDS if "kubectl -n birefnet" in c])
    def test_objects_are_made_by_an_overlay(self, command):
        everything = set().union(*map(self.made, ("keda", "tensorrt", "cpu", "kserve"))) | set(self.OF_KSERVE)
        for found in re.findall(r"\b(?:deployment|service|job|inferenceservice)/[\w-]+", command):
            assert found in everything, found
        pattern = r"(?:annotate|delete|patch) (\w+ birefnet[\w-]*)"
        for found in re.findall(pattern, command):
            assert found in everything, found

    def test_containers_whose_logs_are_read(self):
        asked = {found for command in COMMANDS for found in re.findall(r"logs -f \S+ -c ([\w-]+)", command)}
        spec = only(rendered("tensorrt"), "Deployment")["spec"]["template"]["spec"]
        assert asked == {container["name"] for container in spec["initContainers"]}

    def test_forwarded_ports_are_those_of_the_objects(self):
        forwards = [c for c in COMMANDS if "port-forward" in c]
        assert len(forwards) == 2
        for command in forwards:
            ((name, local, port),) = re.findall(r"port-forward (\S+) (\d+):(\d+) &", command)
            if name.startswith("service/"):
                service = only([e for e in rendered("cpu") if e["metadata"]["name"] == name[8:]], "Service")
                ports = [entry["port"] for entry in service["spec"]["ports"]]
            else:
                (container,) = only(rendered("kserve"), "ServingRuntime")["spec"]["containers"]
                ports = [entry["containerPort"] for entry in container["ports"]]
            assert int(port) in ports
            (asked,) = [c for c in COMMANDS[COMMANDS.index(command) + 1 :] if c.startswith("curl")][:1]
            assert f"localhost:{local}/" in asked

    def test_labels_that_open_the_network_policy(self):
        labels = {found for c in COMMANDS for found in re.findall(r"label namespace \S+ (\S+)", c)}
        (rule,) = only(rendered("cpu"), "NetworkPolicy")["spec"]["ingress"]
        (wanted,) = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"] if "namespaceSelector" in peer]
        assert labels == {f"{name}={value}" for name, value in wanted.items()}


@needs_kubectl
@pytest.mark.parametrize("overlay", ["cpu", "keda"])
@pytest.mark.parametrize("block", [block for block in BLOCKS if "patches:" in block])
def test_what_is_advised_for_an_overlay_renders_on_it(block: str, overlay: str, tmp_path: Path):
    shutil.copytree(K8S, tmp_path / "k8s")
    with (tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml").open("a") as file:
        file.write(block)
    command = ["kubectl", "kustomize", str(tmp_path / "k8s" / "overlays" / overlay)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-500:]
    objects: Objects = list(yaml.safe_load_all(found.stdout))
    assert objects != rendered(overlay)
    (data,) = [e["data"] for e in every(objects, "ConfigMap") if "settings" in e["metadata"]["name"]]
    settings = settings_of(data)
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    mounts = [mount["mountPath"] for mount in server["volumeMounts"]]
    assert settings.api_keys_file is None or str(settings.api_keys_file.parent) in mounts
    assert {mount["name"] for mount in server["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def service_ports() -> dict[str, dict[int, str]]:
    services = yaml.safe_load_all((K8S / "base" / "services.yaml").read_text())
    return {e["metadata"]["name"]: {p["port"]: p["targetPort"] for p in e["spec"]["ports"]} for e in services}


def test_routes_lead_to_services_and_methods_that_are_there():
    routes, policies = ROUTES[:2], ROUTES[2:]
    assert [route["kind"] for route in routes] == ["HTTPRoute", "GRPCRoute"]
    for route, policy in zip(routes, policies, strict=True):
        (meant,) = policy["spec"]["targetRefs"]
        assert (meant["kind"], meant["name"]) == (route["kind"], route["metadata"]["name"])
        (rule,) = route["spec"]["rules"]
        (target,) = rule["backendRefs"]
        wanted = "http" if route["kind"] == "HTTPRoute" else "grpc"
        assert service_ports()[target["name"]][target["port"]] == wanted
    methods = [match["method"]["service"] for match in ROUTES[1]["spec"]["rules"][0]["matches"]]
    assert methods == [*SERVICES, "grpc.health.v1.Health"]


def test_envoy_asks_the_pods_themselves_and_waits_as_long_as_the_server():
    (listener,) = ENVOY["static_resources"]["listeners"]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    *calls, rest = host["routes"]
    assert [route["match"]["prefix"] for route in calls] == [f"/{name}/" for name in SERVICES]
    assert {route["route"]["cluster"] for route in calls} == {"rpc"}
    assert {route["route"]["timeout"] for route in calls} == {"0s"}
    longest = settings_of({}).max_timeout_s
    assert (rest["match"], rest["route"]["cluster"]) == ({"prefix": "/"}, "rest")
    for given in (rest["route"]["timeout"], manager["stream_idle_timeout"]):
        assert float(given.removesuffix("s")) > longest
    headless = [name for name in service_ports() if name.endswith("-headless")]
    for cluster, port in zip(ENVOY["static_resources"]["clusters"], (8001, 8000), strict=True):
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address == {"address": f"{headless[0]}.birefnet.svc", "port_value": port}
