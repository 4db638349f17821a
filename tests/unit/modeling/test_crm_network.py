"""The refiner: its size, what it sees, subsets of points, tiles, and what an untrained one does."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from modeling.crm import encoder
from modeling.crm.alignment import whole_frame
from modeling.crm.config import COMPACT, RESNET50, CrmConfig, StageConfig
from modeling.crm.decoder import ImplicitDecoder, Points, TileWindow
from modeling.crm.network import CRM, mask_logits, squares
from modeling.crm.receptive_field import halo, reach
from tests.support.crm import SMALL, THIN_RESNET50, picture, seeded_refiner, small_refiner, soft_mask
from tests.support.tolerance import CRM_POINTS, CRM_TILES

CONFIGS = pytest.mark.parametrize("config", [SMALL, THIN_RESNET50], ids=["compact", "resnet50"])


def parameters(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_the_published_network_has_its_size():
    """9.29 M parameters without layer4 in encoder and fusion, and 11617 in the decoder."""
    with torch.device("meta"):
        encode, decode = encoder.Encoder(RESNET50), ImplicitDecoder(RESNET50)
        fuse = encoder.Fusion(RESNET50, encode.channels)
    assert encode.channels == (64, 256, 1024)
    assert parameters(encode) + parameters(fuse) == 9_289_344
    assert parameters(decode) == 11_617


def test_the_compact_network_is_small():
    assert 200_000 < parameters(CRM(COMPACT)) < 400_000


@CONFIGS
def test_taps_and_latent_have_their_strides(config: CrmConfig):
    network = seeded_refiner(config)
    taps = network.encoder(torch.randn(1, 4, 64, 96))
    assert [tuple(tap.shape[2:]) for tap in taps] == [(32, 48), (16, 24), (8, 12)]
    latent = network.encode(picture(64, 96), soft_mask(64, 96))
    assert latent.projected.shape == (1, config.hidden, 32, 48)


def test_the_mask_has_no_effect_in_the_stem_before_training():
    network = CRM(replace(SMALL, residual=False, colour_cues=(), fused_cues=0)).eval()
    with torch.no_grad():
        first, second = (network(picture(64, 64), soft_mask(64, 64, seed)) for seed in (1, 2))
    assert torch.equal(first, second)


def test_an_untrained_compact_refiner_gives_the_mask_back():
    mask = soft_mask(64, 80)
    with torch.no_grad():
        alpha = CRM(COMPACT).eval()(picture(64, 80), mask)
    assert mask.min() == 0
    assert mask.max() == 1
    assert (alpha - mask).abs().max() < 0.5 / 255 + 1e-6


@CONFIGS
@pytest.mark.parametrize("target", [(64, 48), (128, 96), (200, 150)])
def test_any_points_are_those_of_the_whole_grid(config: CrmConfig, target: tuple[int, int]):
    network = seeded_refiner(config)
    with torch.no_grad():
        latent = network.encode(picture(64, 48), soft_mask(64, 48))
        mask = soft_mask(*target, seed=5)
        whole = network.decode(latent, mask, target)
        generator = torch.Generator().manual_seed(3)
        rows, columns = (torch.randint(0, length, (500,), generator=generator) for length in target)
        points = network.query(latent, mask[:, rows, columns], target, (rows, columns))
        window = network.decode(latent, mask[:, 10:41, 7:20], target, (slice(10, 41), slice(7, 20)))
    assert whole.std() > 0.01
    assert (points - whole[:, rows, columns]).abs().max() < CRM_POINTS
    assert (window - whole[:, 10:41, 7:20]).abs().max() < CRM_POINTS


def plain_decoder(decoder: ImplicitDecoder, latent: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """The decoder by its definition: per point and cell, the whole first layer on [F | C_r | C_t | r], in float64."""
    height, width = latent.shape[2:]
    layers = [layer.double() for layer in decoder.rest]
    logits = torch.zeros(*target, decoder.output.out_channels, dtype=torch.float64)
    for i in range(target[0]):
        for j in range(target[1]):
            at = [(2 * k + 1) / length - 1 for k, length in zip((i, j), target, strict=True)]
            areas, values = [], []
            for sy in (-1, 1):
                for sx in (-1, 1):
                    cell = []
                    for value, sign, count in ((at[0], sy, height), (at[1], sx, width)):
                        probe = min(max(value + sign / count + 1e-6, -1 + 1e-6), 1 - 1e-6)
                        cell.append(int((probe + 1) / 2 * count))
                    centre = [(2 * c + 1) / n - 1 for c, n in zip(cell, (height, width), strict=True)]
                    relative = [(at[0] - centre[0]) * height, (at[1] - centre[1]) * width]
                    block = [*relative, *at, 2 * height / target[0], 2 * width / target[1]]
                    inputs = torch.cat([latent[0, :, cell[0], cell[1]].double(), torch.tensor(block).double()])
                    x = F.relu(decoder.first.double()(inputs))[None, :, None, None]
                    for layer in layers:
                        x = layer(x)
                    values.append(x.flatten())
                    areas.append(abs(relative[0] * relative[1]) + 1e-9)
            logits[i, j] = sum(area * value for area, value in zip(areas[::-1], values, strict=True)) / sum(areas)
    return logits


@pytest.mark.parametrize(("cells", "target"), [((4, 6), (8, 12)), ((5, 3), (13, 11)), ((3, 4), (24, 32))])
def test_the_decoder_is_its_definition(cells: tuple[int, int], target: tuple[int, int]):
    """Factorised and separable, against four whole perceptrons for each point."""
    decoder = seeded_refiner(SMALL).decoder
    latent = torch.randn(1, SMALL.latent, *cells, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        positions = [(2 * torch.arange(n) + 1)[None] / n - 1 for n in target]
        found = decoder(decoder.project(latent), tuple(positions), Points(target))
        assert (found[0].movedim(0, 2) - plain_decoder(decoder, latent, target)).abs().max() < CRM_POINTS


def test_positions_in_half_precision_are_refused():
    decoder = small_refiner().decoder
    positions = (torch.zeros(1, 8).half(), torch.zeros(1, 8).half())
    with pytest.raises(TypeError, match=r"float32, found torch\.float16"):
        decoder(torch.zeros(1, SMALL.hidden, 4, 4), positions, Points((8, 8)))


def test_smooth_features_give_no_step_at_the_borders_of_cells():
    """Aggregation by areas is continuous: finer targets make smaller steps, also where the supporting cells change."""
    decoder = seeded_refiner(SMALL).decoder
    ramp = torch.linspace(-1, 1, 8)
    latent = (ramp[:, None] + 0.5 * ramp[None])[None, None].repeat(1, SMALL.latent, 1, 1)
    largest = []
    for factor in (16, 64):
        n = 8 * factor
        positions = tuple((2 * torch.arange(n) + 1)[None] / n - 1 for _ in range(2))
        with torch.no_grad():
            logits = decoder(decoder.project(latent), positions, Points((n, n)))[0, 0]
        largest.append(torch.stack([logits.diff(dim=0).abs().max(), logits.diff(dim=1).abs().max()]).max().item())
    assert largest[1] < 0.35 * largest[0]


def test_a_turned_input_swaps_rows_and_columns():
    """Rows come before columns everywhere: exchanging both the axes and their weights changes nothing."""
    decoder = seeded_refiner(SMALL).decoder
    turned = seeded_refiner(SMALL).decoder
    with torch.no_grad():
        order = [*range(SMALL.latent), *(SMALL.latent + k for k in (1, 0, 3, 2, 5, 4))]
        turned.first.weight.copy_(decoder.first.weight[:, order])
        latent = torch.randn(1, SMALL.latent, 5, 7, generator=torch.Generator().manual_seed(4))
        rows, columns = ((2 * torch.arange(n) + 1)[None] / n - 1 for n in (12, 20))
        plain = decoder(decoder.project(latent), (rows, columns), Points((12, 20)))
        other = turned(turned.project(latent.mT), (columns, rows), Points((20, 12)))
    assert (plain - other.mT).abs().max() < CRM_POINTS


@CONFIGS
def test_the_reach_is_where_gradients_come_from(config: CrmConfig):
    network = seeded_refiner(config)
    found = reach(config)
    size, first, last = 416, 416, -1
    for target in range(200, 208):
        image = picture(size, 8).requires_grad_()
        (slope,) = torch.autograd.grad(network.logits(image, soft_mask(size, 8))[0, target].sum(), image)
        rows = slope[0].abs().sum((0, 2)).nonzero()[:, 0].tolist()
        first, last = min(first, rows[0] - target), max(last, rows[-1] - target)
    assert (-first, last) == (found.before, found.behind)


@CONFIGS
def test_tiles_with_their_halo_are_the_whole(config: CrmConfig):
    check_tiles(seeded_refiner(config), halo(config), CRM_TILES)


def test_tiles_without_enough_halo_are_not_the_whole():
    with pytest.raises(AssertionError, match="off by"):
        check_tiles(small_refiner(), halo(SMALL) - 24, CRM_TILES)


def test_tiles_are_not_the_whole_with_align_corners(monkeypatch: pytest.MonkeyPatch):
    """The published fusion's grid depends on the size of what it is given, whatever the halo."""
    upsample = F.interpolate

    def with_corners(*arguments, **options):
        return upsample(*arguments, **{**options, "align_corners": True})

    monkeypatch.setattr(F, "interpolate", with_corners)
    with pytest.raises(AssertionError, match="off by"):
        check_tiles(small_refiner(), 3 * halo(SMALL), CRM_TILES)


def check_tiles(network: CRM, margin: int, tolerance: float) -> None:
    """The inner part of a tile, at a multiple of 8, equals the whole image's answer."""
    tile, top, left = 2 * margin + 64, 40, 24
    height, width = top + tile + 48, left + tile + 80
    image, mask = picture(height, width), soft_mask(height, width)
    here = (slice(top, top + tile), slice(left, left + tile))
    frame = torch.tensor([[top, left, height, width]], dtype=torch.float32)
    with torch.no_grad():
        whole = network(image, mask, whole_frame(1, (height, width)))
        part = network(image[:, :, *here], mask[:, *here], frame)
    inner = slice(margin, tile - margin)
    difference = (part[:, inner, inner] - whole[:, *here][:, inner, inner]).abs().max().item()
    assert whole.std() > 0.05
    assert difference < tolerance, f"off by {difference}"


def test_tiles_at_the_canvas_border_need_no_halo_there():
    network, margin = small_refiner(), halo(SMALL)
    size = 2 * margin + 64
    image, mask = picture(size + 64, size + 64), soft_mask(size + 64, size + 64)
    frame = torch.tensor([[64, 64, size + 64, size + 64]], dtype=torch.float32)
    with torch.no_grad():
        whole = network(image, mask)
        corner = network(image[:, :, 64:, 64:], mask[:, 64:, 64:], frame)
    assert (corner[:, margin:, margin:] - whole[:, 64 + margin :, 64 + margin :]).abs().max() < CRM_TILES


@CONFIGS
def test_a_window_is_answered_as_the_whole_tile_is(config: CrmConfig):
    """At the tile's corners too, where the stencil and the mixing end, and in other places for each item."""
    network, side = seeded_refiner(config), 48
    image = torch.cat([picture(128, 128, seed) for seed in range(4)])
    mask = torch.cat([soft_mask(128, 128, seed) for seed in range(4)])
    start = torch.tensor([[0, 0], [80, 80], [40, 40], [8, 80]])
    frame = torch.tensor([[0, 0, 128, 128], [3872, 5872, 4000, 6000], [80, 96, 4000, 6000], [0, 5872, 4000, 6000]])
    with torch.no_grad():
        whole = network(image, mask, frame.float())
        found = network.answer(image, mask, frame.float(), TileWindow(128, start // 2, side))
    assert found.shape == (4, side, side)
    for alpha, answer, (top, left) in zip(whole, found, start.tolist(), strict=True):
        expected = alpha[top : top + side, left : left + side]
        assert expected.std() > 0.02
        assert (answer - expected).abs().max() < CRM_POINTS


def test_squares_are_slices():
    planes = torch.randn(3, 5, 20, 30)
    start = torch.tensor([[0, 0], [14, 24], [3, 7]])
    for plane, found, (top, left) in zip(planes, squares(planes, start, 6), start.tolist(), strict=True):
        assert torch.equal(found, plane[:, top : top + 6, left : left + 6])


@CONFIGS
def test_a_size_that_is_no_multiple_of_eight_is_extended_by_replication(config: CrmConfig):
    network = seeded_refiner(config)
    image, mask = picture(61, 45), soft_mask(61, 45)
    frame = whole_frame(1, (61, 45))
    with torch.no_grad():
        found = network(image, mask, frame)
        extended = network(
            F.pad(image, (0, 3, 0, 3), mode="replicate"), F.pad(mask, (0, 3, 0, 3), mode="replicate"), frame
        )
    assert found.shape == (1, 61, 45)
    assert (found - extended[:, :61, :45]).abs().max() < CRM_POINTS


def test_the_residual_is_on_the_masks_logit():
    """A decoder that answers a constant moves every logit by it; a weight moves it towards the colour cue's."""
    network = CRM(SMALL).eval()
    image, mask = picture(64, 64), soft_mask(64, 64)
    bias = network.decoder.output.bias
    assert bias is not None
    with torch.no_grad():
        bias[0] = 0.75
        moved = network(image, mask)
        assert torch.allclose(moved, torch.sigmoid(mask_logits(mask) + 0.75), atol=1e-6)
        bias[0], bias[1] = 0.0, 1.0
        hints = network.encode(image, mask).hints
        assert hints is not None
        assert torch.allclose(network(image, mask), torch.sigmoid(mask_logits(mask) + hints[:, 0]), atol=1e-6)
    decided = (mask == 0) | (mask == 1)
    assert decided.any()
    assert (hints[:, 0][decided] == 0).all()
    assert (hints[:, -1][decided] != 0).any()
    assert hints.abs().amax((0, 2, 3)).min() > 1


def test_a_configuration_with_other_strides_is_refused():
    with pytest.raises(ValueError, match="strides 4 and 8"):
        replace(COMPACT, stages=(StageConfig(1, 64, 2), StageConfig(1, 96, 1)))
    with pytest.raises(ValueError, match="odd widths, found"):
        replace(COMPACT, colour_cues=(4,))
    assert CrmConfig.from_dict(COMPACT.to_dict()) == COMPACT
    with pytest.raises(ValueError, match="no field colour"):
        CrmConfig.from_dict({**COMPACT.to_dict(), "colour": 1})
