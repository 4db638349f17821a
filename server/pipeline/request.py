"""One client call, as every transport hands it to the pipeline, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from matting.refinement import Report
from server.access import Account
from server.engine.batching import Priority
from server.pipeline.distant import DistantImage


class Output(StrEnum):
    """What the client wants back."""

    MATTE = "matte"  # the alpha matte alone, one channel
    CUTOUT = "cutout"  # RGBA, straight alpha
    COMPOSITE = "composite"  # RGB, the cutout over a colour
    TRIMAP = "trimap"  # 0 background, 128 unknown, 255 foreground, one channel


class OutputFormat(StrEnum):
    """How the answer is encoded."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"
    ZIP = "zip"  # a cutout as two files: its colours as JPEG, its alpha as PNG
    TIFF = "tiff"
    NPY = "npy"  # the array alone, as numpy.load reads it; a matte as float32 in [0, 1]


class Refine(StrEnum):
    """Whether the matte is refined at the image's own resolution."""

    AUTO = "auto"  # of large images, if a refiner is served that was shown not to harm
    OFF = "off"
    ON = "on"  # of all that are larger than the network's canvas; without a refiner by the guided filter


class Crop(StrEnum):
    """Whether the network sees a small subject again, larger."""

    OFF = "off"
    AUTO = "auto"


class Foreground(StrEnum):
    """Which colours a cutout or a composite has where it is not opaque."""

    ESTIMATE = "estimate"  # the subject's, without what shows through it
    ORIGINAL = "original"  # the image's own


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """How an image is to be answered; every field has the default of the interface.

    Attributes:
        output: What comes back.
        format: Its encoding. JPEG cannot carry a cutout's alpha, and ZIP carries nothing else.
        background: sRGB 0..255 behind a composite.
        model: Name of a served model; None is the default one.
        priority: Which of the waiting requests goes first.
        timeout_s: Seconds from arrival until the answer is worthless; None is the server's default.
        foreground: The colours of cutouts and composites.
        depth: Bits of a matte's samples, 8 or 16.
        refine: Whether the matte is refined.
        crop: Whether the network sees a small subject again.
    """

    output: Output = Output.MATTE
    format: OutputFormat = OutputFormat.PNG
    background: tuple[int, int, int] = (255, 255, 255)
    model: str | None = None
    priority: Priority = Priority.NORMAL
    timeout_s: float | None = None
    foreground: Foreground = Foreground.ESTIMATE
    depth: int = 8
    refine: Refine = Refine.AUTO
    crop: Crop = Crop.OFF


END_BYTES = 16 * 1024
"""Of an upload, at both ends, that its fingerprint is made of."""


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """Where an image is, as the client wrote it: unchecked, and perhaps secret."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """One image and how to answer it.

    Attributes:
        image: The encoded file as uploaded, where to fetch it, or where it is held.
        options: How it is to be answered.
        request_id: Names it in the log where a batch of several requests is spoken of.
        account: Whose rate limit it counts for; None where there is none.
        fingerprint: Of the request that it was made from; None where it is as it came.
    """

    image: bytes | ImageUrl | DistantImage = field(repr=False)
    options: SegmentOptions = SegmentOptions()
    request_id: str = ""
    account: Account | None = None
    fingerprint: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """The answer to one request.

    Attributes:
        body: The encoded image; nothing where that is held elsewhere, as the upload was.
        media_type: Its media type, `image/png` and so on.
        size: (height, width) of the answer, after EXIF orientation.
        model: Name of the model that made it.
        batch_size: How many items shared the device with this one.
        stage_s: Seconds by stage (fetch, decode, queue, infer, refine, finish, encode), in the order in which they ran.
        artifact: Id of the artifact that was served under that name: which one it was before or after a replacement.
        refinement: What was done to the matte at the image's own resolution; None where nothing was asked for.
    """

    body: bytes = field(repr=False)
    media_type: str
    size: tuple[int, int]
    model: str
    batch_size: int
    stage_s: Mapping[str, float]
    artifact: str = ""
    refinement: Report | None = None


def fingerprint(request: SegmentRequest) -> int:
    """The same for the same request sent again, within one process, and as good as never for another one.

    Python's hash of bytes is keyed at random for every process, so nobody can make two that are alike. Of an image its
    length and its ends are enough: of two compressed files that differ anywhere, the ends differ.
    """
    if request.fingerprint is not None:
        return request.fingerprint
    image = request.image
    if not isinstance(image, bytes | ImageUrl):
        raise TypeError("This is a bug: who holds an upload elsewhere tells its fingerprint")
    source = image.text if isinstance(image, ImageUrl) else (len(image), image[:END_BYTES], image[-END_BYTES:])
    options = replace(request.options, timeout_s=None)  # what is left of a deadline is less the second time
    return hash((source, options, request.account.name if request.account is not None else None))
