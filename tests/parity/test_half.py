"""Half precision: what stays in fp32, why, and that the emulation rounds as half precision does."""

import torch
from torch import Tensor, nn

from model_export.half_emulation import HalfEmulation
from model_export.sample_inputs import subject
from model_export.stages import stage_errors
from modeling.birefnet.network import BiRefNet
from modeling.folding import fold
from modeling.half import half_precision
from tests.support.networks import TINY_RESNET, seeded_network, tiny_network
from tests.support.seeded import seeded_input
from tests.support.tolerance import HALF_EMULATION, HALF_LOGITS

LOUD = 3e5
"""Of a residual channel: trained Swin networks have such, and fp16 ends at 65504."""


@torch.no_grad()
def logits(network: BiRefNet, size: tuple[int, int] = (64, 96)) -> Tensor:
    x = seeded_input(1, *size)
    with HalfEmulation():
        return network(x.to(next(network.parameters()).dtype)).float()


def with_loud_channel() -> BiRefNet:
    """Networks with outliers, as trained ones have: one channel of the residual is huge after the first block."""
    network = seeded_network()
    network.bb.get_parameter("patch_embed.norm.bias").data[3] = LOUD
    return network


def test_a_half_network_is_near_the_full_one() -> None:
    full, half = logits(tiny_network()), logits(half_precision(fold(tiny_network())))
    assert full.std() > 0.5
    assert torch.abs(half - full).max() < HALF_LOGITS
    assert not torch.equal(half, full)


def test_a_residual_backbone_is_half_throughout() -> None:
    network = seeded_network(TINY_RESNET)
    mixed = half_precision(fold(network))
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float16}
    full, half = logits(network), logits(mixed)
    assert torch.abs(half - full).max() < HALF_LOGITS
    assert not torch.equal(half, full)


def test_outliers_of_the_residual_stream_survive() -> None:
    network = with_loud_channel()
    full = logits(network)
    assert torch.isfinite(full).all()
    naive = logits(seeded_copy_in_half(network))
    assert not torch.isfinite(naive).all()
    assert torch.abs(logits(half_precision(fold(network))) - full).max() < HALF_LOGITS


def seeded_copy_in_half(network: BiRefNet) -> BiRefNet:
    copy = BiRefNet(network.config).eval()
    copy.load_state_dict(network.state_dict())
    return copy.half()


def test_what_is_half_and_what_is_not() -> None:
    mixed = half_precision(fold(tiny_network()))
    for name, parameter in mixed.named_parameters():
        in_stream = ".norm" in name or "patch_embed" in name
        assert parameter.dtype == (torch.float32 if in_stream else torch.float16), name
    assert all(parameter.dtype == torch.float32 for parameter in tiny_network().parameters())


def test_the_emulation_rounds_as_half_precision_does() -> None:
    """Torch's own half-precision kernels accumulate in other orders, so the last bit may differ."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 4, 1)).half().eval()
    x = torch.randn(2, 8, 9, 9).half()
    with torch.no_grad():
        native = layer(x)
        with HalfEmulation():
            emulated = layer(x)
    assert emulated.dtype == torch.float16
    assert torch.abs(emulated.float() - native.float()).max() < HALF_EMULATION
    exact = layer.float()(x.float())
    assert torch.abs(emulated.float() - exact).max() > 0


def test_stages_are_named_and_their_errors_are_those_of_half_precision() -> None:
    errors = stage_errors(tiny_network(), subject(64, 96))
    scales = [f"backbone {scale} /{stride}" for scale in ("full", "half") for stride in (4, 8, 16, 32)]
    blocks = [f"decoder_block{level}" for level in (4, 3, 2, 1)]
    assert list(errors) == [*scales, "squeeze_module", *blocks, "logits"]
    assert all(1e-5 < error < 1e-1 for error in errors.values())
