"""The uint8 path is the official preprocessing: Pillow's bilinear squash, then ToTensor and Normalize."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from matting.geometry import fit
from modeling.birefnet.network import BiRefNet
from modeling.contract import ImageToAlpha
from tests.support import images
from tests.support.networks import seeded_network, tiny_network
from tests.support.tolerance import ANTIALIASED_LEVELS, NORMALISED


class Recorder(nn.Module):
    """Stands in for the network and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.given = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.given = x
        return x[:, :1]


def official_tensor(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """What `Compose([Resize(size), ToTensor(), Normalize(mean, std)])` gives for a PIL image, step by step."""
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    to_tensor = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean = torch.as_tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    deviation = torch.as_tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    return to_tensor.sub(mean).div(deviation)


@pytest.mark.parametrize("name", images.PHOTOGRAPHS)
@pytest.mark.parametrize("size", [(64, 96), (512, 512)])
def test_bytes_are_normalised_as_officially(name: str, size: tuple[int, int]) -> None:
    photograph = images.photograph(name)
    recorder = Recorder()
    ImageToAlpha(recorder)(torch.from_numpy(fit(photograph, size).copy())[None])  # type: ignore[arg-type]
    assert torch.abs(recorder.given[0] - official_tensor(photograph, size)).max() < NORMALISED


def test_every_level_of_every_channel_is_normalised_as_officially() -> None:
    levels = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)
    recorder = Recorder()
    ImageToAlpha(recorder)(torch.from_numpy(levels)[None])  # type: ignore[arg-type]
    assert torch.abs(recorder.given[0] - official_tensor(levels, (16, 16))).max() < NORMALISED


@pytest.mark.parametrize("size", [(64, 96), (128, 128), (700, 500)])
def test_fitting_is_torchs_antialiased_bilinear(size: tuple[int, int]) -> None:
    """Another implementation of the same filter, in another library."""
    photograph = images.photograph("coffee").copy()
    pixels = torch.from_numpy(photograph).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    difference = np.abs(fit(photograph, size).astype(np.float32) - wanted[0].permute(1, 2, 0).numpy())
    assert difference.max() <= ANTIALIASED_LEVELS


@pytest.mark.parametrize("network", [tiny_network(), seeded_network().double()], ids=["fp32", "fp64"])
def test_alpha_is_the_sigmoid_of_the_logits(network: BiRefNet) -> None:
    photograph = images.photograph("chelsea")
    with torch.inference_mode():
        alpha = ImageToAlpha(network)(torch.from_numpy(fit(photograph, (64, 96)).copy())[None])
        tensor = official_tensor(photograph, (64, 96)).to(alpha.dtype)
        wanted = torch.sigmoid(network(tensor[None]))
    assert alpha.shape == (1, 64, 96)
    assert alpha.std() > 0.05
    assert torch.abs(alpha - wanted[:, 0]).max() < 1e-5
