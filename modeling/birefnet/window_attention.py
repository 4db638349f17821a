"""Multi-head self-attention inside windows, shifted or not, with a relative position bias (Swin, section 3.2)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Exactly zero after the softmax, and a number in fp16, where minus infinity makes NaNs in some runtimes.
BLOCKED = -1e4


class WindowAttention(nn.Module):
    """Attention of the tokens of each window among themselves.

    Maps are padded on the right and at the bottom to whole windows. The padding is not masked out: the released
    checkpoints were trained with it as ordinary keys, of which the projection sees only zeros, hence equal to its bias.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.relative_position_index: Tensor
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, height, width, channels = x.shape
        pad_bottom, pad_right = -height % self.window, -width % self.window
        if pad_bottom or pad_right:
            # A padded token is its bias, so only the real ones are projected.
            projected = F.pad(F.linear(x, self.qkv.weight), (0, 0, 0, pad_right, 0, pad_bottom))
            projected = projected + self.qkv.bias.to(projected.dtype)
        else:
            projected = self.qkv(x)
        if self.shift:
            projected = torch.roll(projected, (-self.shift, -self.shift), dims=(1, 2))
        attended = self._attend(projected)
        if self.shift:
            attended = torch.roll(attended, (self.shift, self.shift), dims=(1, 2))
        return self.proj(attended[:, :height, :width].reshape(-1, height, width, channels))

    def _attend(self, projected: Tensor) -> Tensor:
        """(B, H, W, 3C) in whole windows to (B, H, W, C)."""
        batch, height, width, triple = projected.shape
        window, heads = self.window, self.heads
        down, across = height // window, width // window
        tokens, head_channels = window * window, triple // 3 // heads
        split = projected.reshape(batch, down, window, across, window, 3, heads, head_channels)
        # (3, B, windows down, across, heads, rows, columns, channels per head)
        split = split.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, tokens, head_channels)
        query, key, value = split.unbind(0)
        # In place: scores are the backbone's largest tensor, 240 MB per 1024x1024 image in Swin-L's first stage.
        scores = torch.matmul(query * self.scale, key.transpose(-2, -1))
        scores += self._position_bias(scores.dtype)
        if self.shift:
            scores = scores.view(batch, down * across, heads, tokens, tokens)
            scores += self._mask(height, width, scores.device).to(scores.dtype)
            scores = scores.view(-1, heads, tokens, tokens)
        attended = torch.matmul(scores.softmax(dim=-1), value)
        attended = attended.reshape(batch, down, across, heads, window, window, head_channels)
        return attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, triple // 3)

    def _position_bias(self, dtype: torch.dtype) -> Tensor:
        """(heads, N, N) gathered from the table."""
        tokens = self.window * self.window
        bias = self.relative_position_bias_table.index_select(0, self.relative_position_index.reshape(-1))
        return bias.reshape(tokens, tokens, self.heads).permute(2, 0, 1).to(dtype)

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        key = (height, width, device)
        if key not in self._masks:
            self._masks = {key: torch.from_numpy(shift_mask(height, width, self.window)).to(device)}
        return self._masks[key]


def relative_position_index(window: int) -> Tensor:
    """(N, N) int64, N = window^2: for each pair of tokens the row of the bias table for their displacement."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None, :] + window - 1
    across = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + across


def shift_mask(height: int, width: int, window: int) -> np.ndarray:
    """(windows, 1, N, N) float32, 0 or `BLOCKED` where the cyclic shift brought opposite borders together."""

    def region(size: int) -> np.ndarray:
        position = np.arange(size)
        return (position >= size - window).astype(np.int64) + (position >= size - window // 2)

    labels = 3 * region(height)[:, None] + region(width)[None, :]
    labels = labels.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3)
    labels = labels.reshape(-1, 1, window * window)
    return np.where(labels[:, :, :, None] != labels[:, :, None, :], np.float32(BLOCKED), np.float32(0.0))
