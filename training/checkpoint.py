"""The state of a run in one safetensors file, written atomically and resumed bit for bit.

Tensors are grouped by prefix (`network.`, `ema.`, `optimizer.<parameter>.`); counters and the configuration travel
as JSON in the file's metadata, so that nothing is ever unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import TrainingConfig


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    next_index: int = 0
    elapsed: float = 0.0


class Configuration(Protocol):
    """What a run was configured with, as JSON."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class State:
    """What a checkpoint keeps of a run, beside its configuration and progress.

    Attributes:
        network: Being trained.
        ema: Its average.
        optimizer: Its moments.
        scaler: Of the loss in fp16; else disabled, and not kept.
    """

    network: nn.Module
    ema: "Ema"
    optimizer: Optimizer
    scaler: torch.amp.GradScaler


class Ema:
    """An exponential moving average of a network's parameters and floating-point buffers."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network; the average is short at the start, so that random weights are forgotten soon."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = network.state_dict()
        averaged = [name for name, value in values.items() if value.is_floating_point()]
        # All at once: on a GPU a kernel for each of some hundred tensors takes longer than the sums.
        get_ema_multi_avg_fn(decay)([self.state[name] for name in averaged], [values[name] for name in averaged], 0)
        for name in values.keys() - set(averaged):
            self.state[name].copy_(values[name])


def save(path: Path, config: Configuration, progress: Progress, state: State) -> None:
    """Write the whole state; the file appears complete or not at all."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.state.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    metadata = {"config": json.dumps(config.to_dict()), "progress": json.dumps(asdict(progress))}
    if state.scaler.is_enabled():
        metadata["scaler"] = json.dumps(state.scaler.state_dict())
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def read_header(path: Path) -> tuple[TrainingConfig, Progress]:
    """The configuration and the counters of a matte network's checkpoint, without its tensors.

    Raises:
        ValueError: The file is not a checkpoint of this loop.
    """
    config, progress = read_plain_header(path)
    return TrainingConfig.from_dict(config), progress


def read_plain_header(path: Path) -> tuple[Mapping[str, Any], Progress]:
    """As `read_header`, for a run of any network: the configuration as it was written.

    Raises:
        ValueError: The file is not a training checkpoint.
    """
    metadata = _metadata(path)
    if "config" not in metadata or "progress" not in metadata:
        raise ValueError(
            f"{path} is not a training checkpoint: its metadata has {sorted(metadata)}, expected config and progress"
        )
    return json.loads(metadata["config"]), Progress(**json.loads(metadata["progress"]))


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _group(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  a safetensors file is no dict
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def restore(path: Path, state: State) -> Progress:
    """Put the state of `path` into a freshly made run, on whatever device the run is."""
    state.network.load_state_dict(_group(path, "network."))
    ema = state.ema
    ema.state = {name: value.to(ema.state[name].device) for name, value in _group(path, "ema.").items()}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _group(path, "optimizer.").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer = state.optimizer
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    scaler = _metadata(path).get("scaler")
    if scaler is not None and state.scaler.is_enabled():
        state.scaler.load_state_dict(json.loads(scaler))
    return read_plain_header(path)[1]


def ema_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, under the network's own keys: what is evaluated and exported."""
    return _group(path, "ema.")
