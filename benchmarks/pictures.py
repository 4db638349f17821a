"""Make the pictures of README and model card with a live server and the embedded model.

`python -m benchmarks.pictures` sends each photograph that scikit-image bundles as a JPEG, once for its matte and once
for its cutout; what comes back is written as it came. Nothing is retouched. The contact sheet holds the same
photographs, mirrored and cropped too, each with its matte and its cutout on magenta, whatever came of it.
"""

import http.client
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.load import Answer, post
from tests.support.images import jpeg, photographs
from tests.support.processes import live_server

Photo = NDArray[np.uint8]

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ANSWERS = {"matte.png": "/segment", "cutout.webp": "/segment?output=cutout&format=webp"}
CELL = 144
"""Side of a square of the contact sheet; pictures keep their shapes in it."""


def variations(photograph: Photo) -> list[Photo]:
    """Whole, mirrored, the left and the right two thirds, and the middle two thirds of both axes."""
    height, width = photograph.shape[:2]
    third, sixth = width // 3, (height // 6, width // 6)
    middle = photograph[sixth[0] : height - sixth[0], sixth[1] : width - sixth[1]]
    parts = (photograph, photograph[:, ::-1], photograph[:, : width - third], photograph[:, third:], middle)
    return [np.ascontiguousarray(part) for part in parts]


def _answer(connection: http.client.HTTPConnection, upload: bytes, path: str) -> bytes:
    answer: Answer = post(connection, upload, path)
    if answer.status != 200:
        raise SystemExit(f"{path}: expected status 200, found {answer.status}: {answer.body!r}")
    return answer.body


def _cell(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a grey square."""
    cell = Image.new("RGB", (CELL, CELL), (64, 64, 64))
    small = picture.copy()
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    cell.paste(small, ((CELL - small.width) // 2, (CELL - small.height) // 2))
    return cell


def _sheet_row(connection: http.client.HTTPConnection, photograph: Photo) -> Image.Image:
    """Photograph, matte and cutout on magenta of every variation, side by side."""
    parts = variations(photograph)
    row = Image.new("RGB", (3 * CELL * len(parts), CELL))
    for place, part in enumerate(parts):
        upload = jpeg(part, quality=90)
        matte = Image.open(io.BytesIO(_answer(connection, upload, "/segment")))
        cutout = Image.open(io.BytesIO(_answer(connection, upload, "/segment?output=cutout&format=png")))
        magenta = Image.new("RGBA", cutout.size, (255, 0, 255, 255))
        shown = (Image.fromarray(part), matte.convert("RGB"), Image.alpha_composite(magenta, cutout.convert("RGBA")))
        for column, picture in enumerate(shown):
            row.paste(_cell(picture.convert("RGB")), ((3 * place + column) * CELL, 0))
    return row


def main() -> None:
    """Write `NAME.jpg`, `NAME-matte.png`, `NAME-cutout.webp` for every photograph, and `contact-sheet.webp`."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    rows = []
    with live_server() as live:
        connection = http.client.HTTPConnection(live.http.removeprefix("http://"), timeout=60)
        for name, photograph in photographs().items():
            upload = jpeg(photograph, quality=90)
            (IMAGES / f"{name}.jpg").write_bytes(upload)
            for suffix, path in ANSWERS.items():
                (IMAGES / f"{name}-{suffix}").write_bytes(_answer(connection, upload, path))
            rows.append(_sheet_row(connection, photograph))
        connection.close()
    sheet = Image.new("RGB", (rows[0].width, CELL * len(rows)))
    for place, row in enumerate(rows):
        sheet.paste(row, (0, CELL * place))
    sheet.save(IMAGES / "contact-sheet.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
