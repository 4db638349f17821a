"""An upload that another process holds: its pixels are worked on there, in the same steps (`server.frontends`).

The pipeline orders the steps and is given what the network is to see. Whatever has the size of the image stays where it
is, the answer, too.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from matting.refinement import Refinement, RefineOptions, TileShape
from server.pipeline.header import ImageHeader


class DistantImage(Protocol):
    """One upload. Besides `room` and `read_header`, which belong to the event loop, its methods run in the pool."""

    def __len__(self) -> int:
        """Bytes of the file."""
        ...

    def read_header(self) -> ImageHeader:
        """At once, as `server.pipeline.header.read_header`, of an upload that `check_upload` has let through."""
        ...

    def room(self, size: int) -> AbstractAsyncContextManager[None]:
        """Have so many bytes for arrays on their way between the processes; all other steps need that."""
        ...

    def prepare(self, working_size: tuple[int, int], *, colours: bool) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """As `server.pipeline.stages.prepare`; the canvas, and the size of the image, upright."""
        ...

    def refine(self, coarse: NDArray[np.float32], shape: TileShape, options: RefineOptions) -> Refinement:
        """As `matting.refinement.refine`; of the result, the matte itself stays there."""
        ...

    def answer(self, alpha: NDArray[np.float32] | None) -> None:
        """As `server.pipeline.stages.answer`; the bytes stay there. Without alpha, from what was refined there."""
        ...
