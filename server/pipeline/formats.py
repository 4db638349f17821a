"""Which image formats are read, told by their first bytes alone: names and declared media types lie."""

from server.errors import NotAnImageError

READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Pillow's names of the formats that are read."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"}
)
"""File name suffixes, lower case, under which a folder is searched for images."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_ISO_IMAGES = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"crx ": "Canon raw",
}

# What people send by mistake, so that the answer can name it.
_MISTAKEN = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "an icon"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"data:image/", "a data URL, which only the JSON field `image_base64` takes"),
    (b"{", "JSON"),
    (b"--", "a multipart body without its Content-Type"),
)


def sniff(data: bytes) -> str:
    """Name the format of an encoded image, one of READABLE.

    Raises:
        NotAnImageError: The first bytes are of no format that is read here; it says what they look like.
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and _has_avif_brand(data):
        return "AVIF"
    raise NotAnImageError(f"expected an image ({', '.join(READABLE)}), found {_description(data)}")


def _has_avif_brand(data: bytes) -> bool:
    # The major brand may be the generic mif1 while the list of compatible ones says avif.
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, length, 4))]
    return any(brand in _AVIF_BRANDS for brand in brands)


def _description(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        known = _ISO_IMAGES.get(brand)
        return f"a {known} image" if known else f"an ISO media file of the brand {brand!r}"
    start = data[:64].lstrip()
    for magic, description in _MISTAKEN:
        if start.lower().startswith(magic.lower()) or data.startswith(magic):
            return description
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}"
