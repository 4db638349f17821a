"""Networks on fused kernels answer what plain ones answer."""

import pytest
import torch

from modeling.birefnet.config import COMPACT
from modeling.birefnet.network import BiRefNet
from modeling.folding import fold
from modeling.fused import fuse
from modeling.half import half_precision
from tests.support.kernels import DEVICE
from tests.support.networks import TINY_RESNET, seeded_network, tiny_network
from tests.support.seeded import seeded_input
from tests.support.tolerance import FUSED_LOGITS, HALF_LOGITS

SMALL = (32, 64)


@torch.inference_mode()
def logits(network: BiRefNet, size: tuple[int, int] = (64, 96), batch: int = 1) -> torch.Tensor:
    result: torch.Tensor = network(seeded_input(batch, *size).to(next(network.parameters()).device))
    return result.cpu()


def test_a_fused_network_is_the_plain_one() -> None:
    """64 x 96 makes maps of 16 x 24 to 2 x 3 tokens, and half of that: padded windows, shifted ones and single ones."""
    fused = fuse(tiny_network(), torch.float32).to(DEVICE)
    found = logits(fused, batch=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits(tiny_network(), batch=2), rtol=0, atol=FUSED_LOGITS)


def test_in_half_precision_it_is_near() -> None:
    full = logits(tiny_network(), SMALL)
    fused = logits(fuse(tiny_network()).to(DEVICE), SMALL)
    assert fused.dtype == torch.float32
    assert torch.abs(fused - full).max() < HALF_LOGITS
    assert not torch.equal(fused, full)


def test_a_residual_backbone_is_left_to_the_libraries() -> None:
    network = seeded_network(TINY_RESNET)
    full, found = logits(network, SMALL), logits(fuse(network, torch.float32).to(DEVICE), SMALL)
    torch.testing.assert_close(found, full, rtol=0, atol=FUSED_LOGITS)
    assert torch.abs(logits(fuse(network).to(DEVICE), SMALL) - full).max() < HALF_LOGITS


def test_outliers_of_the_residual_stream_survive() -> None:
    network = seeded_network()
    network.bb.get_parameter("patch_embed.norm.bias").data[3] = 3e5
    assert torch.abs(logits(fuse(network).to(DEVICE), SMALL) - logits(network, SMALL)).max() < HALF_LOGITS


def test_what_is_half_and_what_is_not() -> None:
    """As the fp16 export has it, with biases of deformable convolutions in fp32, which are added there."""
    fused = fuse(tiny_network())
    for name, parameter in fused.named_parameters():
        full = "norm" in name or "projection" in name or (".branches." in name and name.endswith(".bias"))
        if "sampling_conv" in name:
            full = False
        assert parameter.dtype == (torch.float32 if full else torch.float16), name


def test_the_given_network_stays_as_it_was() -> None:
    network = seeded_network()
    before = {name: (value.clone(), value.stride()) for name, value in network.state_dict().items()}
    for dtype in (torch.float16, torch.float32):
        fuse(network, dtype)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name][0], rtol=0, atol=0)
        assert value.stride() == before[name][1], name


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected float16 or float32, found torch\.bfloat16"):
        fuse(tiny_network(), torch.bfloat16)
    with pytest.raises(ValueError, match="evaluation mode"):
        fuse(seeded_network().train())


@pytest.mark.slow
def test_the_embedded_models_shape() -> None:
    network = seeded_network(COMPACT)
    found = logits(fuse(network, torch.float32).to(DEVICE), (96, 64))
    torch.testing.assert_close(found, logits(network, (96, 64)), rtol=0, atol=FUSED_LOGITS)
    half = logits(fuse(network).to(DEVICE), (96, 64))
    exported = logits(half_precision(fold(network)), (96, 64))
    assert torch.abs(half - exported).max() < HALF_LOGITS
