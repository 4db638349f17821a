"""Refiners as files: written with their configuration, read back whole, every wrong key named."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from modeling.crm.config import CrmConfig
from modeling.crm.network import CRM
from modeling.weights import WeightsError, read_metadata, read_state, write_state

CONFIG_KEY = "crm_config"
_COUNTER = ".num_batches_tracked"


def is_refiner(path: Path | str) -> bool:
    """Whether a file holds a refiner that `save_refiner` wrote.

    Raises:
        WeightsError: The file cannot be read.
        FileNotFoundError: There is no such file.
    """
    return CONFIG_KEY in read_metadata(path)


def load_refiner(path: Path | str) -> CRM:
    """The refiner of a file, in fp32 on the CPU and in evaluation mode.

    Raises:
        WeightsError: The file cannot be read, was not written by `save_refiner`, or its keys do not fit.
        FileNotFoundError: There is no such file.
    """
    metadata = read_metadata(path)
    if CONFIG_KEY not in metadata:
        raise WeightsError(f"{path}: expected a refiner's configuration under `{CONFIG_KEY}`, found none")
    try:
        config = CrmConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except ValueError as error:
        raise WeightsError(f"{path}: its stored configuration is not one: {error}") from error
    network = CRM(config)
    load_refiner_state(network, read_state(path))
    return network.eval()


def load_refiner_state(network: CRM, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the network, or, if one does not fit, change nothing.

    Raises:
        WeightsError: Names every key that is missing, not of this network, or of the wrong shape.
    """
    expected = network.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state and not key.endswith(_COUNTER)]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"misshapen {key}: expected {tuple(tensor.shape)}, found {tuple(state[key].shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise WeightsError(f"{len(problems)} keys do not fit the refiner:\n  " + "\n  ".join(problems))
    network.load_state_dict({**expected, **state})


def save_refiner(network: CRM, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that `load_refiner` reads back whole, by an atomic rename.

    Raises:
        ValueError: The name does not end in `.safetensors`, or `metadata` uses the key of the configuration.
    """
    write_state(network.state_dict(), path, metadata, (CONFIG_KEY, json.dumps(network.config.to_dict())))
