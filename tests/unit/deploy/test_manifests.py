"""What the manifests name is in the code: settings, probes, ports, metrics, times that add up, and reasons.

Overlays are rendered where kubectl is (`make check-k8s` has the validators); everything else is read from the files.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import autoscale
from server.api.rest.gatekeeper import _AREAS as PATHS
from server.observability.metrics import Metrics
from tests.support.fleet import CHANNEL_OPTIONS, SERVICE_CONFIG
from tests.support.manifests import (
    K8S,
    OVERLAYS,
    VERSION,
    every,
    needs_kubectl,
    only,
    pods,
    rendered,
    server_pod,
    settings_of,
)
from tests.support.processes import ROOT
from tests.support.proxy import ADVISED

MONITORING = K8S / "components" / "monitoring"
TARGETS = {"cpu": "cpu", "hpa": "cpu", "monitoring": "cpu", "tensorrt": "tensorrt"}  # of the others: gpu
CLOSING_S = 12.0  # last answers (1 s), the threads of devices (10 s), and a little


def metric_names() -> set[str]:
    """Every name that a scrape can give, `_bucket`, `_sum` and `_count` included."""
    metrics = Metrics()
    metrics.build_info({"onnxruntime": "1"})
    names = set()
    for family in metrics.registry.collect():
        names |= {sample.name for sample in family.samples} | {family.name}
        if family.type == "counter":
            names.add(f"{family.name}_total")
        if family.type == "histogram":
            names |= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
    return names


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:birefnet|process)_[a-z_]+", re.sub(r'"[^"]*"', '""', expression)))


def test_there_are_the_overlays_that_the_documentation_names():
    assert OVERLAYS == ["cpu", "gpu", "hpa", "keda", "keda-zero", "kserve", "monitoring", "tensorrt"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
class TestOverlay:
    def test_settings_are_settings(self, overlay):
        for _, _, environment in pods(rendered(overlay)):
            assert all(name.startswith("BIREFNET_") for name in environment)
            assert settings_of(environment).host == "0.0.0.0", "a container must be reachable"  # noqa: S104

    def test_services_leave_the_settings_alone(self, overlay):
        """A Service called birefnet would otherwise set BIREFNET_PORT, and any of its variables stops the start."""
        assert all(spec["enableServiceLinks"] is False for spec, _, _ in pods(rendered(overlay)))

    def test_ports_are_the_servers(self, overlay):
        objects = rendered(overlay)
        for _, container, environment in pods(objects):
            settings = settings_of(environment)
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports.get("http", ports.get("http1")) == settings.port
            assert ports.get("grpc", ports.get("h2c")) == settings.grpc_port
            for service in (entry for entry in objects if entry["kind"] == "Service"):
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)

    def test_probes_ask_for_paths_that_are_there_and_only_liveness_for_life(self, overlay):
        for _, container, environment in pods(rendered(overlay)):
            for kind, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
                probe = container[f"{kind}Probe"]["httpGet"]
                assert probe["path"] == path
                assert probe["port"] in ("http", settings_of(environment).port)

    def test_grace_period_covers_the_whole_end(self, overlay):
        for spec, container, environment in pods(rendered(overlay)):
            settings = settings_of(environment)
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            needed = before + settings.drain_delay_s + settings.drain_timeout_s + CLOSING_S
            assert needed <= spec["terminationGracePeriodSeconds"] <= needed + 60

    def test_readiness_is_noticed_within_the_drain_delay(self, overlay):
        for _, container, environment in pods(rendered(overlay)):
            probe = container["readinessProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] <= settings_of(environment).drain_delay_s

    def test_pods_are_restricted(self, overlay):
        objects = rendered(overlay)
        for spec in (server_pod(objects)["spec"], *(e["spec"]["template"]["spec"] for e in every(objects, "Job"))):
            assert spec["automountServiceAccountToken"] is False
            assert spec["enableServiceLinks"] is False
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["securityContext"]["runAsNonRoot"] is True
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                context = container["securityContext"]
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert context["readOnlyRootFilesystem"] is True
                assert context["allowPrivilegeEscalation"] is False
                assert container["resources"]["limits"] == container["resources"]["requests"]

    def test_a_rollout_needs_no_gpu_more(self, overlay):
        objects = rendered(overlay)
        ((_, container, _),) = pods(objects)
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            deployments = [entry["spec"]["strategy"] for entry in every(objects, "Deployment")]
            services = [e["spec"]["predictor"]["deploymentStrategy"] for e in every(objects, "InferenceService")]
            (strategy,) = deployments + services
            assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}

    def test_the_image_is_the_one_that_the_settings_need(self, overlay):
        ((_, container, environment),) = pods(rendered(overlay))
        settings = settings_of(environment)
        target = "tensorrt" if settings.backend == "trt" else "gpu" if settings.device == "cuda" else "cpu"
        assert target == TARGETS.get(overlay, "gpu")
        assert container["image"] == f"registry.example.com/birefnet-server:{VERSION}-{target}"
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (target != "cpu")

    def test_an_autoscaler_owns_the_number_of_pods(self, overlay):
        kinds = {entry["kind"] for entry in rendered(overlay)}
        if kinds & {"HorizontalPodAutoscaler", "ScaledObject"}:
            assert "replicas" not in only(rendered(overlay), "Deployment")["spec"]

    def test_every_skipped_check_has_a_reason(self, overlay):
        text = yaml.safe_dump_all(rendered(overlay))
        for skip in re.findall(r"checkov\.io/skip\d+: *(.*)", text):
            assert re.fullmatch(r"'?CKV2?_K8S_\d+=.{20,}", skip), skip


@needs_kubectl
def test_the_artifact_is_made_before_its_plan_and_both_before_the_server():
    objects = rendered("tensorrt")
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    prepare, plan = spec["initContainers"]
    (server,) = spec["containers"]
    scripts = {e["metadata"]["name"]: e["data"] for e in objects if e["kind"] == "ConfigMap"}
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "prepare"]
    assert {Path(c["command"][1]).name for c in (prepare, plan)} == set(scripts[volume["configMap"]["name"]])
    assert {"name": "PRECISIONS", "value": "fp16-tensorrt"} in prepare["env"], "what plans are built from"
    assert plan["image"] == server["image"], "a plan is read by the TensorRT that built it"
    assert plan["resources"]["limits"]["nvidia.com/gpu"] == server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (settings,) = [settings_of(environment) for _, _, environment in pods(objects)]
    assert (settings.backend, settings.refiner, settings.build_plans) == ("trt", "none", False)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_image_can_be_named_without_naming_another(overlay):
    """`kustomize edit set image NAME=...` goes by the name alone."""
    tags: dict[str, set[str]] = {}
    for image in re.findall(r"image: (\S+)", yaml.safe_dump_all(rendered(overlay))):
        name, _, tag = image.rpartition(":")
        tags.setdefault(name, set()).add(tag)
    assert tags
    assert all(len(found) == 1 for found in tags.values()), tags


def test_what_is_advised_is_what_the_fleet_is_tested_with():
    """`make test-fleet` runs the advice: this keeps the advice to what is run."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"```nginx\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    advised = [" ".join(line.split()) for block in blocks for line in block.splitlines() if not line.startswith("#")]
    tested = [" ".join(line.split()) for line in ADVISED.splitlines() if not line.strip().startswith("listen ")]
    outside = {"server {", "}"}
    assert [line for line in advised if line not in outside] == [line for line in tested if line not in outside]
    (python,) = re.findall(r"```python\n(.*?)```", text, re.S)
    config, options = (node.value for node in ast.parse(python).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(config) == SERVICE_CONFIG
    said = {"json": json, "config": SERVICE_CONFIG}
    assert eval(ast.unparse(options), said) == CHANNEL_OPTIONS  # noqa: S307 - our own page


def test_the_paths_of_the_probes_are_the_servers():
    assert {"/livez", "/readyz", "/metrics"} <= set(PATHS)


def test_scalers_follow_the_signal_and_the_pace_that_the_simulation_chose():
    hpa = yaml.safe_load((K8S / "components/hpa/horizontalpodautoscaler.yaml").read_text())["spec"]
    keda = yaml.safe_load((K8S / "components/keda/scaledobject.yaml").read_text())["spec"]
    chosen = autoscale.CHOSEN.target
    assert [metric["pods"]["target"]["averageValue"] for metric in hpa["metrics"]] == [f"{chosen * 1000:g}m", "700m"]
    assert [trigger["metadata"]["threshold"] for trigger in keda["triggers"]] == [f"{chosen:g}", "0.7"]
    behaviours = (hpa["behavior"], keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"])
    for behaviour in behaviours:
        for direction, rules in (("scaleUp", autoscale.BEHAVIOUR.up), ("scaleDown", autoscale.BEHAVIOUR.down)):
            assert behaviour[direction]["stabilizationWindowSeconds"] == rules.window_s
            policies = [(p["type"].lower(), p["value"], p["periodSeconds"]) for p in behaviour[direction]["policies"]]
            assert policies == [(policy.kind, policy.value, policy.period_s) for policy in rules.policies]


def test_queries_of_the_scalers_and_the_adapter_name_metrics_that_are_there():
    keda = (K8S / "components/keda/scaledobject.yaml").read_text() + (
        K8S / "components/scale-to-zero/kustomization.yaml"
    ).read_text()
    queries = re.findall(r"query: (.*)|value: (sum.*)", keda)
    assert len(queries) == 5
    asked = set().union(*(names_in("".join(query)) for query in queries))
    adapter = yaml.safe_load((K8S / "components/hpa/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    asked |= {rule["name"]["matches"] for rule in adapter}
    assert asked == {"birefnet_pressure", "birefnet_busy_share"}
    assert asked <= metric_names()
    hpa = yaml.safe_load((K8S / "components/hpa/horizontalpodautoscaler.yaml").read_text())["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in hpa} == {rule["name"]["as"] for rule in adapter}


def test_alerts_name_metrics_that_are_there_and_the_operator_gets_the_same_ones():
    plain = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    rule = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert rule["spec"] == plain
    rules = [entry for group in plain["groups"] for entry in group["rules"]]
    for entry in rules:
        assert names_in(entry["expr"]) <= metric_names(), entry["alert"]
    tests = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {entry["alert"] for entry in rules}, "every alert has a test in which it fires"


def test_labels_in_alerts_are_values_that_occur():
    from server.errors import ServerError
    from server.observability.metrics import FAULTS, REFUSALS

    def codes(cls: type[ServerError]) -> set[str]:
        return {cls.code}.union(*map(codes, cls.__subclasses__()))

    known = {"reason": set(REFUSALS), "kind": set(FAULTS), "outcome": codes(ServerError), "part": {"host", "device"}}
    text = (MONITORING / "alerts.yaml").read_text()
    matchers = re.findall(r'(reason|kind|outcome|part)=~?"([^"]*)"', text)
    assert len(matchers) >= 5
    for label, values in matchers:
        for value in values.split("|"):
            assert any(re.fullmatch(value, found) for found in known[label]), (label, value)


def test_dashboard_queries_name_metrics_that_are_there():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 15
    for expression in expressions:
        assert names_in(expression), expression
        assert names_in(expression) <= metric_names(), expression


def test_dashboard_is_what_grafana_takes():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities)
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, f"{panel['title']} overlaps another"
        cells |= taken
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
