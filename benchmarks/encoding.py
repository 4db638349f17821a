"""What an answer costs the host: `python -m benchmarks.encoding -o benchmarks/results/encoding/NAME.json`.

Processor time of one thread, for a photograph and a matte with one subject, by output, format and size. `--table FILE`
prints the table that stands in `docs/operations.md`.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import machine
from benchmarks.results import markdown, write_result
from matting.composition import composite, cutout, to_uint8
from server.pipeline.decode import Metadata
from server.pipeline.encode import Compression, encode
from server.pipeline.request import OutputFormat
from tests.support.images import disc, photographs

SIDES = {"1": (1024, 1024), "4": (1632, 2448), "12": (3000, 4000)}
"""(height, width) by megapixels."""

CASES: Sequence[tuple[str, OutputFormat, int]] = (
    ("matte", OutputFormat.PNG, 1),
    ("matte", OutputFormat.PNG, 6),
    ("matte", OutputFormat.WEBP, 0),
    ("matte", OutputFormat.JPEG, 0),
    ("cutout", OutputFormat.PNG, 0),
    ("cutout", OutputFormat.PNG, 1),
    ("cutout", OutputFormat.PNG, 3),
    ("cutout", OutputFormat.PNG, 6),
    ("cutout", OutputFormat.PNG, 9),
    ("cutout", OutputFormat.WEBP, 0),
    ("cutout", OutputFormat.ZIP, 1),
    ("composite", OutputFormat.PNG, 1),
    ("composite", OutputFormat.JPEG, 0),
    ("composite", OutputFormat.WEBP, 0),
)
"""Output, format and, where it counts, the level of PNG."""

_NOISE = 2.0  # standard deviation, of 255: a sensor by daylight


def pictures(size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """A photograph of a size, and a disc cut out of it: flat but for its edge, as mattes are."""
    photograph = Image.fromarray(photographs()["astronaut"]).resize(size[::-1], Image.Resampling.LANCZOS)
    # What was enlarged has lost the noise of its sensor, on which encoders spend most of their bytes.
    noise = np.random.default_rng(4).normal(0, _NOISE, (*size, 3))
    rgb = np.clip(np.rint(np.asarray(photograph) + noise), 0, 255).astype(np.uint8)
    alpha = disc(*size).alpha
    return {
        "matte": to_uint8(alpha),
        "cutout": cutout(rgb, alpha),
        "composite": composite(rgb, alpha, (255, 255, 255)),
    }


def measure(rounds: int, sides: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Seconds and bytes of every case, the median of the rounds."""
    rows = []
    for name, size in sides.items():
        made = pictures(size)
        for output, file_format, level in CASES:
            seconds, body = [], b""
            for _ in range(rounds):
                began = time.thread_time()
                body = encode(made[output], file_format, Metadata(), Compression(png_level=level))
                seconds.append(time.thread_time() - began)
            case = {"output": output, "format": file_format.value, "png_level": level, "megapixels": float(name)}
            rows.append({**case, "seconds": round(median(seconds), 4), "bytes": len(body)})
    return rows


def table(result: Mapping[str, Any]) -> str:
    """Seconds and megabytes by size, as Markdown."""
    names = sorted({row["megapixels"] for row in result["cases"]})
    lines: dict[str, list[str]] = {}
    for row in result["cases"]:
        level = f", level {row['png_level']}" if row["format"] == "png" else ""
        cells = lines.setdefault(f"{row['output']} as {row['format']}{level}", [])
        cells += [f"{row['seconds']:.2f}", f"{row['bytes'] / 1e6:.1f}"]
    head = ["one thread", *(text for name in names for text in (f"{name:g} MP, s", "MB"))]
    return markdown(head, ([name, *cells] for name, cells in lines.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a result, and measure nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIZE")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    if arguments.out is None:
        parser.error("one of --out and --table is needed")
    described = machine.describe()
    cases = measure(arguments.rounds, {name: SIDES[name] for name in arguments.megapixels})
    words = sys.argv[1:] if argv is None else list(argv)
    found = {"machine": described, "rounds": arguments.rounds, "cases": cases}
    write_result(arguments.out, "benchmarks.encoding", words, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
