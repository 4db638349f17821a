"""The only loader: checkpoint files to networks, with every wrong key named.

A checkpoint is a `.safetensors` or a `.pth` file whose tensors carry the official BiRefNet keys. Its configuration is
the one stored beside the tensors where there is one (files written by `save_state`), else it follows from their shapes.
"""

import contextlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeling.birefnet.config import BiRefNetConfig, ResNetConfig, SwinConfig
from modeling.birefnet.inferred_config import config_from_shapes
from modeling.birefnet.network import BiRefNet
from modeling.birefnet.window_attention import relative_position_index

CONFIG_KEY = "birefnet_config"
POSITION_INDEX = ".relative_position_index"
WRAPPER_PREFIXES = ("module.", "_orig_mod.")

# Buffers that are recomputed or never read, and the heads that only training reads: all that a file may lack.
MAY_BE_ABSENT = re.compile(
    r"\.relative_position_index$|\.num_batches_tracked$|^decoder\.(conv_ms_spvn_[432]|gdt_convs_pred_[432]\.0)\.(weight|bias)$"
)


class WeightsError(ValueError):
    """A file is not a checkpoint of this architecture, or its tensors are not those of the network."""


def load_network(path: Path | str) -> BiRefNet:
    """The network of a checkpoint, in fp32 on the CPU and in evaluation mode.

    Raises:
        WeightsError: The file cannot be read, is of another architecture, or its keys do not fit. Keys that may be
            absent (`MAY_BE_ABSENT`) become zeros, but for the position index, which is computed.
        FileNotFoundError: There is no such file.
    """
    state, metadata = _read(Path(path))
    try:
        config = _stored_config(metadata) or infer_config(state)
        # Without memory of its own: initialising the largest network takes seconds, and every value is replaced.
        with torch.device("meta"):
            network = BiRefNet(config)
        expected = network.state_dict()
        _check(expected, state, config)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    values = {
        key: state[key].to(tensor.dtype) if key in state else _substitute(key, tensor, config)
        for key, tensor in expected.items()
    }
    network.load_state_dict(values, assign=True)
    return network.eval()


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by official key: wrapper prefixes stripped, floating point as fp32.

    Raises:
        WeightsError: The file is neither a safetensors file nor a torch file of nothing but tensors.
        FileNotFoundError: There is no such file.
    """
    return _read(Path(path))[0]


def read_metadata(path: Path | str) -> dict[str, str]:
    """What `save_state` wrote beside the tensors; empty for files that carry none, as `.pth` files do.

    Raises:
        WeightsError: The file cannot be read.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix != ".safetensors":
        return {}
    with _opened_safetensors(path) as file:
        return dict(file.metadata() or {})


def infer_config(state: Mapping[str, Tensor]) -> BiRefNetConfig:
    """The configuration that has tensors of these shapes.

    Raises:
        WeightsError: The tensors are of another architecture, such as that of before May 2024.
    """
    try:
        return config_from_shapes({key: tuple(value.shape) for key, value in state.items()})
    except ValueError as error:
        raise WeightsError(str(error)) from error


def load_state(network: BiRefNet, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the network, or, if one does not fit, change nothing.

    Only `MAY_BE_ABSENT` keys may be missing; the network keeps its own values for those.

    Raises:
        WeightsError: Names every key that is missing, not of this network, or of the wrong shape.
    """
    expected = network.state_dict()
    _check(expected, state, network.config)
    network.load_state_dict({**expected, **state})


def save_state(network: BiRefNet, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors checkpoint that `load_network` reads back whole, configuration included.

    The file appears by an atomic rename: a reader never sees half of one.

    Args:
        network: On any device; tensors are written as they are.
        path: Must end in `.safetensors`.
        metadata: Further text to keep beside the tensors, such as the training step.

    Raises:
        ValueError: The name does not end in `.safetensors`, or `metadata` uses the key of the configuration.
    """
    write_state(network.state_dict(), path, metadata, (CONFIG_KEY, json.dumps(network.config.to_dict())))


def write_state(
    state: Mapping[str, Tensor], path: Path | str, metadata: Mapping[str, str] | None, config: tuple[str, str]
) -> None:
    """Write tensors of any network, with its configuration under a key of its own; see `save_state`.

    Args:
        state: By key; on any device, written as they are.
        path: Must end in `.safetensors`.
        metadata: Further text.
        config: The metadata key of the configuration, and the configuration as text.

    Raises:
        ValueError: The name does not end in `.safetensors`, or `metadata` uses the key of the configuration.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoints are written as .safetensors, found {path.name}")
    if config[0] in (metadata or {}):
        raise ValueError(f"metadata key {config[0]} is the configuration's own")
    texts = {"format": "pt", **(metadata or {}), config[0]: config[1]}
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    try:
        save_file(tensors, draft, metadata=texts)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _check(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], config: BiRefNetConfig) -> None:
    problems = [
        f"missing {key} {_shape(tensor)}"
        for key, tensor in expected.items()
        if key not in state and not MAY_BE_ABSENT.search(key)
    ]
    problems += [f"unknown {key} {_shape(tensor)}" for key, tensor in state.items() if key not in expected]
    problems += [
        f"misshapen {key}: expected {_shape(tensor)}, found {_shape(state[key])}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise WeightsError(f"{len(problems)} keys do not fit the network:\n  " + "\n  ".join(problems))
    if isinstance(config.backbone, ResNetConfig):
        return
    index = relative_position_index(config.backbone.window)
    if wrong := [key for key in state if key.endswith(POSITION_INDEX) and not torch.equal(state[key].long(), index)]:
        raise WeightsError("the file numbers window positions unlike the network in " + ", ".join(wrong))


def _substitute(key: str, tensor: Tensor, config: BiRefNetConfig) -> Tensor:
    """What stands for a key that a file may lack: the index recomputed, counters and training heads zero."""
    if key.endswith(POSITION_INDEX) and isinstance(config.backbone, SwinConfig):
        return relative_position_index(config.backbone.window)
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        raw, metadata = _read_safetensors(path)
    elif path.suffix in {".pth", ".pt", ".bin"}:
        raw, metadata = _read_torch(path), {}
    else:
        raise WeightsError(f"{path}: a checkpoint is a .safetensors or a .pth file, found {path.suffix or 'no suffix'}")
    state: dict[str, Tensor] = {}
    for key, value in raw.items():
        plain = _without_prefixes(key)
        if plain in state:
            raise WeightsError(f"{path}: {plain} is there twice, once under a wrapper's prefix")
        state[plain] = value.float() if value.is_floating_point() else value
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _opened_safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118  no iterator


@contextlib.contextmanager
def _opened_safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  this is the one loader
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise WeightsError(f"{path}: not a torch file of nothing but tensors: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: expected a state_dict, a flat table of tensors by key, found {_describe(content)}")
    return content


def _describe(content: object) -> str:
    if isinstance(content, dict):
        others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
        return f"a table whose entries {', '.join(others[:5])} are not tensors"
    return f"a {type(content).__name__}"


def _without_prefixes(key: str) -> str:
    while key.startswith(WRAPPER_PREFIXES):
        key = key.removeprefix("module.").removeprefix("_orig_mod.")
    return key


def _stored_config(metadata: Mapping[str, str]) -> BiRefNetConfig | None:
    if CONFIG_KEY not in metadata:
        return None
    try:
        return BiRefNetConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"its stored configuration is not one: {error}") from error


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
