"""A coverage-guided fuzzer on header and decoder: `python -m tests.support.fuzz_decoder [libFuzzer flags] FOLDER…`.

An input that raises anything but an error of the request, takes long or takes much memory ends it, and is left behind.
"""

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["server.pipeline", "matting.pictures", "PIL"]):
    from matting.geometry import fit
    from server.errors import RequestError
    from server.pipeline.decode import decode
    from server.pipeline.header import ImageLimits, read_header

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)
CANVAS = (24, 32)


def try_one(data: bytes) -> None:
    """One input: an image or a refusal."""
    try:
        header = read_header(data, LIMITS)
        image = decode(data, header)
        canvas = image.squash(CANVAS)
    except RequestError:
        return
    if image.rgb.shape[:2] != image.size or header.pixels > LIMITS.max_pixels:
        raise AssertionError(f"expected an image of {header}, found {image.rgb.shape}")
    if not np.array_equal(canvas, fit(image.rgb, CANVAS)):
        raise AssertionError("expected the canvas that the pixels give, found another one")


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
