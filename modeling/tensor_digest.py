"""A name for the weights themselves, whatever file they came in."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from modeling.weights import MAY_BE_ABSENT

VERSION = b"birefnet tensors 1\n"
"""Begins the digested bytes; changes with the definition."""


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors that inference reads: key, shape and values, sorted by key, values rounded to fp16.

    Two files have the same digest when they hold the same weights as .pth or .safetensors, with other metadata, in any
    order of keys, with or without wrapper prefixes (`modeling.weights` strips them), buffers that can be recomputed and
    heads that only training reads, and as fp32 or as the fp16 copy that rounding to nearest makes of it. They differ
    when one weight differs by more than that rounding, in bf16 copies, and when the patch order differs: the digest
    is of the weights as they came.

    Args:
        state: Tensors by official key, on the CPU.

    Returns:
        64 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256(VERSION)
    for key in sorted(state):
        if MAY_BE_ABSENT.search(key):
            continue
        digest.update(f"{key} {tuple(state[key].shape)}\n".encode())
        digest.update(state[key].detach().to(torch.float16).contiguous().numpy().astype("<f2", copy=False).tobytes())
    return digest.hexdigest()
