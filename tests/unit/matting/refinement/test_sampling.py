"""Windows and strips are pieces of one enlargement."""

import cv2
import numpy as np
import pytest

from matting.refinement.sampling import strip, support, window
from tests.support.tolerance import RESAMPLED


@pytest.mark.parametrize(("small", "large"), [((37, 53), (80, 131)), ((64, 64), (128, 128)), ((5, 1), (9, 7))])
def test_the_whole_window_is_the_bilinear_enlargement(small: tuple[int, int], large: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).random(small, dtype=np.float32)
    scale = small[0] / large[0], small[1] / large[1]
    found = window(plane, scale, slice(0, large[0]), slice(0, large[1]))
    expected = cv2.resize(plane, (large[1], large[0]), interpolation=cv2.INTER_LINEAR).reshape(large)
    assert np.abs(found - expected).max() < RESAMPLED
    strips = np.concatenate([strip(plane, large, slice(top, min(top + 7, large[0]))) for top in range(0, large[0], 7)])
    assert np.abs(strips - expected).max() < RESAMPLED


def test_a_window_is_a_piece_of_the_whole_to_the_bit() -> None:
    plane = np.random.default_rng(1).random((40, 50), dtype=np.float32)
    scale = 40 / 97, 50 / 110
    whole = window(plane, scale, slice(0, 97), slice(0, 110))
    assert np.array_equal(window(plane, scale, slice(13, 60), slice(70, 110)), whole[13:60, 70:110])


def test_a_plane_elsewhere_in_the_frame() -> None:
    plane = np.random.default_rng(2).random((20, 20), dtype=np.float32)
    moved = window(plane, (0.5, 0.5), slice(10, 50), slice(4, 44), (10.0, 4.0))
    assert np.array_equal(moved, window(plane, (0.5, 0.5), slice(0, 40), slice(0, 40)))


def test_what_is_zero_stays_zero_and_equal_neighbours_stay_themselves() -> None:
    plane = np.zeros((30, 30), np.float32)
    plane[:, 15:] = 0.3
    found = window(plane, (0.37, 0.37), slice(0, 81), slice(0, 81))
    assert np.all(found[:, :38] == 0)
    assert np.all(found[:, 45:] == np.float32(0.3))


@pytest.mark.parametrize("span", [slice(0, 5), slice(17, 40), slice(90, 97)])
def test_the_support_is_what_a_span_is_made_of(span: slice) -> None:
    scale = 40 / 97
    touched = []
    for pixel in range(40):
        plane = np.zeros((40, 1), np.float32)
        plane[pixel] = 1
        touched.append(bool(window(plane, (scale, 1.0), span, slice(0, 1)).any()))
    found = support(40, scale, span)
    assert all(found.start <= pixel < found.stop for pixel in np.flatnonzero(touched))
    assert found.stop - found.start <= np.count_nonzero(touched) + 1
