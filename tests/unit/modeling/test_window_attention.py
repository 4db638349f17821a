"""Window attention against a direct reading of its definition: one softmax per token, over explicit pairs."""

import numpy as np
import pytest
import torch

from modeling.birefnet.window_attention import BLOCKED, WindowAttention, relative_position_index, shift_mask


def by_token(layer: WindowAttention, x: torch.Tensor, shift: int) -> torch.Tensor:
    """Attention of each token, its partners found by their coordinates on the padded, shifted grid."""
    _, height, width, channels = x.shape
    window, heads = 4, 2
    rows, columns = -(-height // window) * window, -(-width // window) * window
    padded = x.new_zeros(x.shape[0], rows, columns, channels)
    padded[:, :height, :width] = x
    query, key, value = (
        part.unflatten(-1, (heads, -1)) for part in layer.qkv(padded).chunk(3, dim=-1)
    )  # (B, rows, columns, heads, d)
    table = layer.relative_position_bias_table
    result = torch.zeros_like(x)

    def place(y: int, z: int) -> tuple[int, int, int, int]:
        """Where a token stands after the shift: window row and column, and which side of the seam."""
        moved_y, moved_z = (y - shift) % rows, (z - shift) % columns
        return moved_y, moved_z, int(y < shift), int(z < shift)

    for y, z in np.ndindex(height, width):
        my, mz, seam_y, seam_z = place(y, z)
        partners = []
        for py, pz in np.ndindex(rows, columns):
            qy, qz, other_y, other_z = place(py, pz)
            if (qy // window, qz // window) == (my // window, mz // window) and (seam_y, seam_z) == (other_y, other_z):
                row = (my - qy + window - 1) * (2 * window - 1) + mz - qz + window - 1
                partners.append((py, pz, row))
        keys = torch.stack([key[:, py, pz] for py, pz, _ in partners], dim=1)
        values = torch.stack([value[:, py, pz] for py, pz, _ in partners], dim=1)
        bias = torch.stack([table[row] for *_, row in partners])
        scores = (query[:, y, z][:, None] * keys).sum(-1) / 2.0 + bias
        weights = scores.softmax(dim=1)
        result[:, y, z] = layer.proj((weights[..., None] * values).sum(1).flatten(1))
    return result


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (5, 7), (3, 2), (4, 4)])
def test_equals_the_definition(size: tuple[int, int], shifted: bool):
    """Whole windows, padded ones, and maps smaller than one window (which shift all the same)."""
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, 4, shifted=shifted).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
        x = torch.randn(2, *size, 8, dtype=torch.float64)
        torch.testing.assert_close(layer(x), by_token(layer, x, 2 if shifted else 0), rtol=0, atol=1e-12)


def test_position_index_counts_displacements():
    index = relative_position_index(3)
    assert index.dtype == torch.int64
    assert index.shape == (9, 9)
    assert index[0, 0] == 12  # no displacement: the middle of 5 x 5
    assert index[0, 8] == 0
    assert index[8, 0] == 24
    assert index[1, 0] == 13  # one column to the right of the other
    assert index[3, 0] == 17


def test_mask_blocks_only_across_the_seam():
    mask = shift_mask(8, 8, 4)[:, 0]
    assert mask.shape == (4, 16, 16)
    assert not mask[0].any()  # the first window has no seam
    assert set(np.unique(mask)) == {np.float32(BLOCKED), np.float32(0)}
    # The last window is cut in four quarters of four tokens: each token keeps its own quarter.
    assert ((mask[3] == 0).sum(1) == 4).all()
    assert ((mask[1] == 0).sum(1) == 8).all()


def test_masks_follow_the_size_and_stay_out_of_the_state():
    layer = WindowAttention(8, 2, 4, shifted=True)
    keys = set(layer.state_dict())
    for size in ((8, 8), (12, 4), (8, 8)):
        layer(torch.randn(1, *size, 8))
    assert set(layer.state_dict()) == keys
    assert "relative_position_index" in keys
