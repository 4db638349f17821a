"""What docs/deploy.md gives to copy: resources of gateways, and Envoy's own configuration."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

ROUTING = ("gateway.networking.k8s.io/", "gateway.envoyproxy.io/")
_ENVOY = (
    "config.bootstrap.v3.bootstrap_pb2",
    "extensions.filters.http.router.v3.router_pb2",
    "extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "extensions.upstreams.http.v3.http_protocol_options_pb2",
)


def documents(page: Path) -> list[dict[str, Any]]:
    """Everything that stands in blocks of YAML."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def check_envoy(configuration: dict[str, Any]) -> str:
    """Read a configuration as Envoy does: by its own messages, in which an unknown field is an error.

    Returns:
        How many listeners and clusters it has.

    Raises:
        ValueError: It is none; the message says where and why.
    """
    json_format: Any = importlib.import_module("google.protobuf.json_format")
    bootstrap, *_ = [importlib.import_module(f"envoy.{name}") for name in _ENVOY]  # each makes its types known
    try:
        read = json_format.Parse(json.dumps(configuration), bootstrap.Bootstrap())
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None
    found = read.static_resources
    return f"{len(found.listeners)} listener, {len(found.clusters)} clusters"
