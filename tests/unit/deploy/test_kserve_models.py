"""Manifests are held against KServe's types as its generated models describe them."""

from pathlib import Path

import pytest

from k8s.check.kserve import Models, as_pod, kind_of

SERVICE = """
class V1beta1InferenceService(object):
    openapi_types = {'api_version': 'str', 'kind': 'str', 'metadata': 'V1ObjectMeta', 'spec': 'V1beta1Spec'}
    attribute_map = {'api_version': 'apiVersion', 'kind': 'kind', 'metadata': 'metadata', 'spec': 'spec'}

    def __init__(self, spec=None):
        pass
"""
SPEC = """
class V1beta1Spec(object):
    openapi_types = {'min_replicas': 'int', 'names': 'list[str]', 'on': 'bool', 'model': 'V1beta1Model'}
    attribute_map = {'min_replicas': 'minReplicas', 'names': 'names', 'on': 'on', 'model': 'model'}

    @model.setter
    def model(self, model):
        if self.local_vars_configuration.client_side_validation and model is None:
            raise ValueError("Invalid value for `model`, must not be `None`")
"""
MODEL = """
class V1beta1Model(object):
    openapi_types = {'name': 'str'}
    attribute_map = {'name': 'name'}
"""


@pytest.fixture
def models(tmp_path: Path) -> Models:
    for name, text in (("inference_service", SERVICE), ("spec", SPEC), ("model", MODEL)):
        (tmp_path / f"v1beta1_{name}.py").write_text(text)
    return Models(tmp_path)


def resource(**spec) -> dict[str, object]:
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": spec}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"minReplicas": 1, "names": ["a"], "on": True, "model": {"name": "x"}}, None),
        ({"model": {}}, None),
        ({}, ".spec: expected model"),
        ({"model": {}, "minReplicaz": 1}, ".spec: found minReplicaz, which is no field"),
        ({"model": {}, "minReplicas": "1"}, ".spec.minReplicas: expected int, found '1'"),
        ({"model": {}, "minReplicas": True}, ".spec.minReplicas: expected int, found True"),
        ({"model": {}, "names": "a"}, ".spec.names: expected a list, found 'a'"),
        ({"model": {}, "names": [7]}, ".spec.names[0]: expected str, found 7"),
        ({"model": []}, ".spec.model: expected an object, found []"),
    ],
)
def test_what_is_no_field_of_its_type_is_found(models: Models, spec: dict[str, object], problem: str | None):
    entry = resource(**spec)
    found = list(models.problems(entry, kind_of(entry), ""))
    assert found == ([] if problem is None else [problem])


def test_kubernetes_own_types_are_left_to_the_pod(models: Models):
    assert models.find("V1ObjectMeta") is None
    runtime = {"spec": {"containers": [{"name": "c"}], "protocolVersions": ["v2"]}}
    metadata = {"name": "s", "namespace": "n", "annotations": {"a": "b"}}
    service = {"metadata": metadata, "spec": {"predictor": {"model": {}, "tolerations": []}}}
    pod = as_pod(runtime, service)
    assert pod["spec"] == {"containers": [{"name": "c"}], "tolerations": []}
    assert pod["metadata"] == metadata | {"labels": {"serving.kserve.io/inferenceservice": "s"}}
