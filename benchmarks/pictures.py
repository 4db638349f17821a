"""Make the README's pictures with a live server and the embedded model: `python -m benchmarks.pictures`.

Each photograph that scikit-image bundles is sent as a JPEG, once for its matte and once for its cutout; what comes back
is written as it came. Nothing is retouched.
"""

import http.client
from pathlib import Path

from benchmarks.load import Answer, post
from tests.support.images import jpeg, photographs
from tests.support.processes import live_server

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ANSWERS = {"matte.png": "/segment", "cutout.webp": "/segment?output=cutout&format=webp"}


def main() -> None:
    """Write `NAME.jpg`, `NAME-matte.png` and `NAME-cutout.webp` for every photograph."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with live_server() as live:
        connection = http.client.HTTPConnection(live.http.removeprefix("http://"), timeout=60)
        for name, photograph in photographs().items():
            upload = jpeg(photograph, quality=90)
            (IMAGES / f"{name}.jpg").write_bytes(upload)
            for suffix, path in ANSWERS.items():
                answer: Answer = post(connection, upload, path)
                if answer.status != 200:
                    raise SystemExit(f"{name}, {path}: expected status 200, found {answer.status}: {answer.body!r}")
                (IMAGES / f"{name}-{suffix}").write_bytes(answer.body)
        connection.close()


if __name__ == "__main__":
    main()
