"""What the objects of an overlay say of each other: selectors, ports and targets reach the pods that they are for."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.manifests import (
    K8S,
    OVERLAYS,
    VERSION,
    Object,
    Objects,
    every,
    needs_kubectl,
    only,
    rendered,
    server_pod,
)
from tests.support.processes import ROOT

pytestmark = needs_kubectl


def labels(objects: Objects) -> dict[str, str]:
    found: dict[str, str] = server_pod(objects)["metadata"]["labels"]
    return found


def named(objects: Objects, kind: str, name: str) -> Object:
    return only([entry for entry in objects if entry["metadata"]["name"] == name], kind)


def container_ports(objects: Objects) -> dict[str, int]:
    (container,) = server_pod(objects)["spec"]["containers"]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


SELECTORS = {
    "Service": ("selector",),
    "Deployment": ("selector", "matchLabels"),
    "NetworkPolicy": ("podSelector", "matchLabels"),
    "PodDisruptionBudget": ("selector", "matchLabels"),
    "PodMonitor": ("selector", "matchLabels"),
}


def selectors(objects: Objects) -> list[tuple[str, dict[str, str]]]:
    """What selects the server's pods, by kind; the Job that exports has a NetworkPolicy of its own."""
    found = []
    for entry in objects:
        if entry["kind"] in SELECTORS and entry["metadata"]["name"] != "birefnet-export":
            labels = functools.reduce(lambda inner, key: inner[key], SELECTORS[entry["kind"]], entry["spec"])
            found.append((entry["kind"], labels))
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestWiring:
    def test_every_selector_finds_the_pods(self, overlay):
        objects = rendered(overlay)
        found = selectors(objects)
        constraints = server_pod(objects)["spec"]["topologySpreadConstraints"]
        found += [("spread", constraint["labelSelector"]["matchLabels"]) for constraint in constraints]
        assert {"NetworkPolicy", "PodDisruptionBudget", "spread"} <= {kind for kind, _ in found}
        for kind, selector in found:
            assert selector, kind
            assert selector.items() <= labels(objects).items(), kind

    def test_other_pods_are_not_taken_for_the_servers(self, overlay):
        objects = rendered(overlay)
        for job in every(objects, "Job"):
            others = job["spec"]["template"]["metadata"]["labels"].items()
            assert not any(selector.items() <= others for _, selector in selectors(objects))
            own = named(objects, "NetworkPolicy", job["metadata"]["name"])["spec"]["podSelector"]["matchLabels"]
            assert own.items() <= others

    def test_ports_of_the_network_policy_and_the_scrape_are_the_pods(self, overlay):
        objects = rendered(overlay)
        ports = container_ports(objects)
        known: set[Any] = {*ports, *ports.values()}
        (rule,) = named(objects, "NetworkPolicy", "birefnet-server")["spec"]["ingress"]
        assert len(rule["ports"]) == 2
        assert {port["port"] for port in rule["ports"]} <= known
        for monitor in every(objects, "PodMonitor"):
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            assert ports[endpoint["port"]] == 8000

    def test_an_autoscaler_scales_what_is_there(self, overlay):
        objects = rendered(overlay)
        for scaler in every(objects, "HorizontalPodAutoscaler") + every(objects, "ScaledObject"):
            target = scaler["spec"]["scaleTargetRef"]
            deployment = only(objects, "Deployment")
            assert target["name"] == deployment["metadata"]["name"]
            assert target.get("kind", "Deployment") == "Deployment"
            assert target.get("apiVersion", "apps/v1") == deployment["apiVersion"]
            assert scaler["metadata"]["namespace"] == deployment["metadata"]["namespace"]

    def test_whoever_scales_by_our_metrics_has_them_scraped_here(self, overlay):
        objects = rendered(overlay)
        if re.search(r"birefnet_(pressure|busy)", yaml.safe_dump_all(objects)):
            monitor = only(objects, "PodMonitor")
            assert monitor["metadata"]["namespace"] == "birefnet"
            assert "namespaceSelector" not in monitor["spec"], "its own namespace, which the queries name"

    def test_volumes_are_those_of_claims_that_are_made(self, overlay):
        objects = rendered(overlay)
        claims = {entry["metadata"]["name"] for entry in every(objects, "PersistentVolumeClaim")}
        text = yaml.safe_dump_all(objects)
        assert set(re.findall(r"claimName: (\S+)", text)) | set(re.findall(r"pvc://([^/\s]+)", text)) == claims

    def test_where_nothing_may_be_written_there_is_a_place_for_what_is_temporary(self, overlay):
        objects = rendered(overlay)
        for spec in (server_pod(objects)["spec"], *(e["spec"]["template"]["spec"] for e in every(objects, "Job"))):
            made = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                writable = {m["mountPath"]: m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
                assert writable.get("/tmp") in made, container["name"]  # noqa: S108 - in the pod
                assert {mount["name"] for mount in container["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


def triggers(scaled: Object) -> list[tuple[str, str, str]]:
    found = [trigger["metadata"] for trigger in scaled["spec"]["triggers"]]
    return [(entry["serverAddress"], entry["query"], entry["threshold"]) for entry in found]


def test_kserve_scales_by_the_same_signal_as_keda():
    keda = only(rendered("keda"), "ScaledObject")
    service = only(rendered("kserve"), "InferenceService")
    assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
    predictor = service["spec"]["predictor"]
    metrics = [entry["external"] for entry in predictor["autoScaling"]["metrics"]]
    assert [
        (entry["metric"]["serverAddress"], entry["metric"]["query"], entry["target"]["value"]) for entry in metrics
    ] == triggers(keda)
    limits = keda["spec"]["minReplicaCount"], keda["spec"]["maxReplicaCount"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == limits
    ours = keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for direction in ("scaleUp", "scaleDown"):
        window = predictor["autoScaling"]["behavior"][direction]["stabilizationWindowSeconds"]
        assert window == ours[direction]["stabilizationWindowSeconds"]


def test_everybody_asks_the_same_prometheus():
    adapter = yaml.safe_load((K8S / "components/hpa/prometheus-adapter-values.yaml").read_text())["prometheus"]
    (address,) = {address for address, _, _ in triggers(only(rendered("keda-zero"), "ScaledObject"))}
    assert f"{adapter['url']}:{adapter['port']}" == address


def test_the_artifact_of_kserve_is_made_where_it_is_looked_for():
    objects = rendered("kserve")
    (container,) = only(objects, "Job")["spec"]["template"]["spec"]["containers"]
    claim, _, path = only(objects, "InferenceService")["spec"]["predictor"]["model"]["storageUri"][6:].partition("/")
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
    (volume,) = [v for v in only(objects, "Job")["spec"]["template"]["spec"]["volumes"] if v["name"] == "models"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert {"name": "TARGET", "value": f"{mount['mountPath']}/{path}"} in container["env"]


def test_a_rollout_leaves_somebody_to_answer():
    """One pod that is ended first is nobody for minutes, and no series for the scaler."""
    for overlay in ("gpu", "keda", "tensorrt", "kserve"):
        objects = rendered(overlay)
        least = [e["spec"].get("replicas") for e in every(objects, "Deployment")]
        least += [e["spec"]["minReplicaCount"] for e in every(objects, "ScaledObject")]
        least += [e["spec"]["predictor"]["minReplicas"] for e in every(objects, "InferenceService")]
        assert max(number for number in least if number is not None) >= 2, overlay


def test_what_the_page_says_names_the_registry_and_pins_every_image(tmp_path):
    page = (ROOT / "docs" / "deploy.md").read_text()
    (commands,) = [block for block in re.findall(r"```bash\n(.*?)```", page, re.S) if "imagetools" in block]
    shutil.copytree(K8S, tmp_path / "k8s")
    docker = tmp_path / "docker"  # in the place of the registry: a digest of its own for every image
    docker.write_text('#!/bin/sh\nprintf sha256:; printf %s "$4" | sha256sum | cut -c1-64\n')
    docker.chmod(0o755)
    around = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "R": "ghcr.io/me"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=around, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines()]

    def pinned(name: str, target: str) -> str:
        digest = hashlib.sha256(f"ghcr.io/me/{name}:{VERSION}-{target}".encode()).hexdigest()
        return f"ghcr.io/me/{name}@sha256:{digest}"

    servers = [pinned("birefnet-server", target) for target in ("cpu", "gpu", "gpu")]
    assert sorted(found) == sorted([*servers, *[pinned("birefnet-export", "export")] * 2])
    assert "registry.example.com" not in "".join(path.read_text() for path in tmp_path.rglob("kustomization.yaml"))


class TestToZero:
    def test_it_is_woken_by_requests_that_find_no_pod(self):
        scaled = only(rendered("keda-zero"), "ScaledObject")
        assert scaled["spec"]["minReplicaCount"] == 0
        asked = [query for _, query, threshold in triggers(scaled) if float(threshold) > 1000]
        # Where requests come in. A cluster's own figures begin with a pod that was chosen.
        assert asked
        assert all("downstream" in query and "_cluster_" not in query for query in asked)
        prefix = re.findall(r'envoy_http_conn_manager_prefix=~"([^"]*)"', asked[0])[0]
        assert all(re.fullmatch(prefix, name) for name in ("http-10080", "https-10443", "http"))
        assert not any(re.fullmatch(prefix, name) for name in ("eg-ready-http", "admin")), "its own probes"

    def test_every_query_has_a_value_where_there_is_no_pod(self):
        scaled = only(rendered("keda-zero"), "ScaledObject")
        assert all(query.endswith(" or vector(0)") for _, query, _ in triggers(scaled))

    def test_a_prometheus_that_is_away_does_not_start_a_fleet(self):
        """KEDA falls back from no pod, too, since 2.19."""
        scaled = only(rendered("keda-zero"), "ScaledObject")["spec"]["fallback"]
        usual = only(rendered("keda"), "ScaledObject")["spec"]["fallback"]
        assert (scaled["replicas"], scaled["behavior"]) == (1, "currentReplicasIfHigher")
        assert usual["replicas"] > 1

    def test_no_pod_is_no_alarm_there_and_one_elsewhere(self):
        plain = yaml.safe_load((K8S / "components/monitoring/alerts.yaml").read_text())
        names = [rule["alert"] for group in plain["groups"] for rule in group["rules"]]
        for overlay, expected in (("keda", names), ("keda-zero", [n for n in names if n != "BirefnetAbsent"])):
            groups = only(rendered(overlay), "PrometheusRule")["spec"]["groups"]
            assert [rule["alert"] for group in groups for rule in group["rules"]] == expected
