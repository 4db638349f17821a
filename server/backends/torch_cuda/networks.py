"""From an artifact's weights to the module that a device runs."""

import torch
from torch import nn

from artifact import Artifact, ArtifactError
from modeling.contract import ImageToAlpha, TileToAlpha
from modeling.crm.weights import load_refiner
from modeling.folding import fold
from modeling.weights import WeightsError, load_network
from server.backends.base import BackendFault

WEIGHTS_ROLE = "weights"


def load_module(artifact_id: str, artifact: Artifact, device: torch.device, *, tune: bool) -> tuple[nn.Module, str]:
    """What runs an artifact, and the precision at which it does.

    Args:
        artifact_id: For messages.
        artifact: Its weights, in the role `weights`.
        device: Where it is to run: on a GPU a matte network is put on fused kernels, in fp16.
        tune: Try which launches of the kernels are the fastest on this GPU, instead of taking those that are shipped.

    Raises:
        BackendFault: The artifact has no weights, or they cannot be read, or it is not made for servers.
    """
    manifest = artifact.manifest
    if manifest.io != "image":
        raise BackendFault(
            f"{artifact_id}: expected an artifact that takes images, found io `{manifest.io}`: export without --io"
        )
    try:
        path = artifact.file(WEIGHTS_ROLE)
        if manifest.kind == "refine":
            return TileToAlpha(load_refiner(path), int(manifest.outputs[0].shape[1])).to(device), "fp32"
        network = load_network(path)
    except ArtifactError as error:
        raise BackendFault(f"{artifact_id}: {error}. The torch backend needs an export --with-weights") from error
    except (WeightsError, FileNotFoundError) as error:
        raise BackendFault(f"{artifact_id}: {error}") from error
    if device.type == "cpu":
        return ImageToAlpha(fold(network)), "fp32"
    from modeling.fused import Launches, fuse  # needs triton, which torch for CUDA brings along

    return ImageToAlpha(fuse(network, torch.float16, Launches(tuning=tune))).to(device), "fp16"
