"""A photograph of 24 megapixels through a live server takes at most 700 MB above idle, however its matte is refined."""

import io
import urllib.request

import numpy as np
import pytest
from PIL import Image

from benchmarks.high_resolution import LARGE, Usage
from tests.support.memory import measurable
from tests.support.processes import live_server

MOST_MIB = 700e6 / 2**20


def photograph() -> bytes:
    """Hair all around a subject: a boundary in a good part of the frame; bright enough for the fake network."""
    y, x = np.ogrid[: LARGE[0], : LARGE[1]]
    y, x = y + 0.5 - LARGE[0] / 2, x + 0.5 - LARGE[1] / 2
    reach = 1200 * (1 + 0.2 * np.sin(60 * np.arctan2(y, x)))
    alpha = np.clip(reach - np.hypot(y, x) + 0.5, 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(alpha * 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(not measurable(), reason="the kernel does not say how much memory was in use")
@pytest.mark.parametrize("refiner", ["embedded", "none"])
@pytest.mark.parametrize("query", ["", "depth=16", "output=cutout"])
def test_what_it_takes(refiner: str, query: str) -> None:
    upload = photograph()
    with live_server("--backend", "fake", "--refiner", refiner) as live:
        usage = Usage(live)
        usage.forget_peak()
        idle = usage.mib("VmRSS")
        request = urllib.request.Request(f"{live.http}/segment?refine=on&{query}", data=upload)  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=280) as answer:  # noqa: S310 - our own server
            said = dict(word.split("=") for word in answer.headers["X-Refine"].split(", "))
            assert Image.open(io.BytesIO(answer.read())).size == LARGE[::-1]
        assert int(said["tiles"]) > 20
        assert said["dropped"] == "0"
        assert usage.mib("VmHWM") - idle <= MOST_MIB
