"""KServe's resources against its own models, as its Python package describes them.

No package carries the schemas of its custom resources. Its models are generated from them: which fields there are, of
which types, and which of them must be there. They are read from the source, for importing them needs half of KServe.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
_POD_KEYS = (
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "initContainers",
    "securityContext",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One of KServe's types.

    Attributes:
        fields: Type by name, as manifests write it.
        required: Those that must be there.
    """

    fields: Mapping[str, str]
    required: frozenset[str]


class Models:
    """The types of an installed `kserve`."""

    def __init__(self, folder: Path) -> None:
        """Read lazily from `kserve/models`."""
        self._folder = folder
        self._kinds: dict[str, Kind | None] = {}

    def find(self, name: str) -> Kind | None:
        """A type; None if it is none of KServe's own but one of Kubernetes'."""
        if name not in self._kinds:
            path = self._folder / f"{_snake(name)}.py"
            self._kinds[name] = _read(path) if path.exists() else None
        return self._kinds[name]

    def problems(self, value: object, kind: str, where: str) -> Iterator[str]:
        """What is wrong with a value of a type; nothing is said of what is inside Kubernetes' own types."""
        if inner := re.fullmatch(r"list\[(.*)\]", kind):
            if not isinstance(value, list):
                yield f"{where}: expected a list, found {value!r}"
                return
            for index, entry in enumerate(value):
                yield from self.problems(entry, inner[1], f"{where}[{index}]")
        elif kind in _PLAIN:
            if not isinstance(value, _PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
                yield f"{where}: expected {kind}, found {value!r}"
        elif (model := self.find(kind)) is not None:
            yield from self._members(value, model, where)

    def _members(self, value: object, model: Kind, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: expected an object, found {value!r}"
            return
        for name in sorted(model.required - value.keys()):
            yield f"{where}: expected {name}"
        for name, entry in value.items():
            if name not in model.fields:
                yield f"{where}: found {name}, which is no field"
            else:
                yield from self.problems(entry, model.fields[name], f"{where}.{name}")


def kind_of(resource: Mapping[str, Any]) -> str:
    """Name of the type of a resource: V1beta1InferenceService."""
    version = str(resource["apiVersion"]).partition("/")[2]
    return version[0].upper() + version[1:] + str(resource["kind"])


def as_pod(runtime: Mapping[str, Any], service: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that KServe makes of a runtime and a service, as far as Kubernetes' own types go."""
    predictor, spec = service["spec"]["predictor"], runtime["spec"]
    own = {name: value for name, value in {**spec, **predictor}.items() if name in _POD_KEYS}
    metadata = {name: service["metadata"][name] for name in ("name", "namespace", "annotations")}
    metadata["labels"] = {"serving.kserve.io/inferenceservice": metadata["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": own}


def _read(path: Path) -> Kind:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (model,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    types, names = found["openapi_types"], found["attribute_map"]
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", path.read_text(encoding="utf-8"))
    return Kind({names[key]: types[key] for key in types}, frozenset(names[key] for key in required))


def _snake(name: str) -> str:
    """As the generator of the models names files: V1alpha1ServingRuntimeSpec, v1alpha1_serving_runtime_spec."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
