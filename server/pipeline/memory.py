"""What a request takes of the memory of the process, before anything is allocated for it.

Peaks of resident memory in bytes per pixel, measured in a process of their own; `tests/unit/pipeline/test_memory.py`
measures them again. They are those of the worst files of a format (noise, CMYK or 16 bits, transparency, an
orientation to apply), because the others cannot be told from their headers.
"""

from matting.foreground import WORKING_BYTES, WORKING_BYTES_PER_PIXEL
from matting.refinement import GuidedFilter
from server.pipeline.header import ImageHeader
from server.pipeline.refining import RefinePlan
from server.pipeline.request import Foreground, Output, OutputFormat, SegmentOptions

DECODING = {"JPEG": 14, "PNG": 18, "WEBP": 24, "TIFF": 16, "BMP": 11, "GIF": 11, "AVIF": 22}
"""From the upload to RGB and alpha, by the upload's format. AVIF of 10 bits by reckoning: Pillow writes none."""

ENCODING = {
    (Output.MATTE, OutputFormat.PNG): 14,
    (Output.MATTE, OutputFormat.WEBP): 31,
    (Output.MATTE, OutputFormat.JPEG): 14,
    (Output.CUTOUT, OutputFormat.PNG): 25,
    (Output.CUTOUT, OutputFormat.WEBP): 49,
    (Output.CUTOUT, OutputFormat.ZIP): 17,
    (Output.COMPOSITE, OutputFormat.PNG): 17,
    (Output.COMPOSITE, OutputFormat.WEBP): 22,
    (Output.COMPOSITE, OutputFormat.JPEG): 16,
    (Output.MATTE, OutputFormat.TIFF): 12,
    (Output.MATTE, OutputFormat.NPY): 14,
    (Output.CUTOUT, OutputFormat.TIFF): 26,
    (Output.CUTOUT, OutputFormat.NPY): 17,
    (Output.COMPOSITE, OutputFormat.TIFF): 19,
    (Output.COMPOSITE, OutputFormat.NPY): 14,
    (Output.TRIMAP, OutputFormat.PNG): 11,
    (Output.TRIMAP, OutputFormat.WEBP): 14,
    (Output.TRIMAP, OutputFormat.TIFF): 11,
    (Output.TRIMAP, OutputFormat.NPY): 11,
}
"""From RGB, alpha and the coarse mask to the answer, by what comes back. With JPEGs a byte is added to what was
measured: where they are written, no process has it in its resident memory."""

ESTIMATING = {Output.CUTOUT: 8, Output.COMPOSITE: 11}
"""What is held per pixel while foreground colours are estimated, which works in tiles of its own, before encoding."""

REFINING = 20
"""From RGB and the coarse mask to the refined matte, where as much as may be is boundary."""

_TILE = 11  # per pixel of a tile that is under way: colours, mask, answer

_COPIES = 2  # of an upload: ours, and the decoder's


def memory_cost(header: ImageHeader, upload_bytes: int, options: SegmentOptions, plan: RefinePlan | None = None) -> int:
    """Bytes that answering a request takes at its peak: of its stages, the most counts.

    Args:
        header: Of the image.
        upload_bytes: Of the file.
        options: Of the request.
        plan: How its matte is refined; None where it is not.
    """
    pixels = header.pixels
    converting = pixels * max(DECODING[header.format], ENCODING[options.output, options.format])
    return _COPIES * upload_bytes + max(converting, _refining(pixels, plan), _estimating(pixels, options))


def _refining(pixels: int, plan: RefinePlan | None) -> int:
    if plan is None:
        return 0
    if not isinstance(plan.by, GuidedFilter):
        return pixels * REFINING
    return pixels * REFINING + plan.by.working_bytes + plan.options.batch * plan.by.side**2 * _TILE


def _estimating(pixels: int, options: SegmentOptions) -> int:
    if options.output not in ESTIMATING or options.foreground is not Foreground.ESTIMATE:
        return 0
    return pixels * ESTIMATING[options.output] + min(WORKING_BYTES, pixels * WORKING_BYTES_PER_PIXEL)
