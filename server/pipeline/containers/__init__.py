"""How files are built around their pixels, read without a decoder: their size, and what they carry besides.

One module per format. Each walks through what its decoder would walk through, in bounded time and memory, so that the
limits hold before any decoder has seen the file.
"""

from server.pipeline.containers.read import read_container
from server.pipeline.containers.tally import EXIF, MAX_KIND_BYTES, PROFILE, Tally, damaged

__all__ = ["EXIF", "MAX_KIND_BYTES", "PROFILE", "Tally", "damaged", "read_container"]
