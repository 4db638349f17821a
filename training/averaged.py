"""What a run leaves: its averaged network, and that as a plain weights file."""

from pathlib import Path

from artifact.directory import file_sha256
from modeling.birefnet.network import BiRefNet
from modeling.weights import load_network, load_state, read_metadata, save_state
from training.checkpoint import ema_weights, read_header
from training.lean import LeanBiRefNet


def trained(path: Path) -> BiRefNet:
    """The averaged network of a run's checkpoint, or the network of a plain weights file."""
    if "progress" not in read_metadata(path):
        return load_network(path)
    config, _ = read_header(path)
    network = LeanBiRefNet(config.network)
    load_state(network, ema_weights(path))
    return network.eval()


def write_weights(checkpoint: Path, out: Path, command: str) -> int:
    """Write a run's averaged weights in half precision, with how they came to be.

    Args:
        checkpoint: The run's.
        out: A .safetensors file.
        command: What made them, kept in the file.

    Returns:
        The run's step.
    """
    config, progress = read_header(checkpoint)
    network = BiRefNet(config.network)
    load_state(network, ema_weights(checkpoint))
    network.half()  # half the size in the repository; what is exported and scored is this very file
    about = {
        "step": str(progress.step),
        "images": str(progress.next_index),
        "seconds": f"{progress.elapsed:.0f}",
        "seed": str(config.seed),
        "checkpoint": file_sha256(checkpoint),
        "command": command,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_state(network, out, about)
    return progress.step
