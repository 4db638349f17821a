"""A coverage-guided fuzzer on header and decoder: `python -m tests.support.fuzz_decoder [libFuzzer flags] FOLDER…`.

An input that raises anything but an error of the request, takes long or takes much memory ends it, and is left behind.
"""

import sys

import atheris

with atheris.instrument_imports(include=["server.pipeline", "PIL"]):
    from server.errors import RequestError
    from server.pipeline.decode import decode
    from server.pipeline.header import ImageLimits, read_header

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)


def try_one(data: bytes) -> None:
    """One input: an image or a refusal."""
    try:
        header = read_header(data, LIMITS)
        image = decode(data, header)
    except RequestError:
        return
    if image.rgb.shape[:2] != image.size or header.pixels > LIMITS.max_pixels:
        raise AssertionError(f"expected an image of {header}, found {image.rgb.shape}")


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
