"""Stages: by two, any shape, the image itself last."""

import itertools

import pytest

from matting.refinement.schedule import WORTHWHILE, stage_sizes


def test_three_stages_at_24_megapixels() -> None:
    assert stage_sizes((4000, 6000), (1024, 1024)) == ((1000, 1500), (2000, 3000), (4000, 6000))


def test_four_from_the_embedded_models_working_size() -> None:
    assert [size[1] for size in stage_sizes((4000, 6000), (512, 512))] == [750, 1500, 3000, 6000]


@pytest.mark.parametrize("size", [(1024, 1024), (1, 1), (700, 1024), (1024, 3)])
def test_none_where_the_mask_has_all_pixels(size: tuple[int, int]) -> None:
    assert stage_sizes(size, (1024, 1024)) == ()


@pytest.mark.parametrize("size", [(1025, 1024), (1200, 900), (2048, 2048), (2300, 2300)])
def test_one_stage_up_to_a_little_more_than_twice(size: tuple[int, int]) -> None:
    assert stage_sizes(size, (1024, 1024)) == (size,)


@pytest.mark.parametrize("image", [(4000, 6000), (6000, 4000), (300, 9000), (9000, 300), (2160, 3840), (5, 60_000)])
@pytest.mark.parametrize("working", [(1024, 1024), (512, 512), (1440, 2560), (2048, 512)])
def test_any_shape_climbs_by_two(image: tuple[int, int], working: tuple[int, int]) -> None:
    sizes = stage_sizes(image, working)
    if not sizes:
        assert image[0] <= working[0]
        assert image[1] <= working[1]
        return
    assert sizes[-1] == image
    axis = 0 if image[0] / working[0] >= image[1] / working[1] else 1
    sides = [working[axis], *(size[axis] for size in sizes)]
    assert 1 < sides[1] / sides[0] <= 2 * WORTHWHILE + 0.01
    for before, after in itertools.pairwise(sides[1:]):
        assert abs(after - 2 * before) <= 4  # rounding, of small sides
    for height, width in sizes:
        assert height >= 1
        assert abs(height * image[1] - width * image[0]) <= max(image)  # half a pixel of rounding on either side
