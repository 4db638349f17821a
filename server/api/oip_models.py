"""The served models as the Open Inference Protocol describes them, over both transports."""

from typing import Any

from server.api.service import Service
from server.errors import UnknownModelError

SERVER_NAME = "birefnet-server"


def describe_model(service: Service, name: str) -> dict[str, Any]:
    """What a model takes and gives; a side of -1 is any.

    Raises:
        UnknownModelError: It is not served.
    """
    outputs = [("alpha", "FP32", [1, -1, -1]), ("image", "BYTES", [1])]
    return {
        "name": name,
        "versions": [find_version(service, name)],
        "platform": "birefnet",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": output, "datatype": kind, "shape": shape} for output, kind, shape in outputs],
    }


def find_version(service: Service, name: str) -> str:
    """The one version of a model: the beginning of its SHA-256.

    Raises:
        UnknownModelError: It is not served.
    """
    found = next((model for model in service.models() if model["name"] == name), None)
    if found is None:
        raise UnknownModelError(f"no model {name[:200]!r} is served")
    return str(found["sha256"])[:12]
