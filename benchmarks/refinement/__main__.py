"""Refinement at 2K to 6K, measured: `python -m benchmarks.refinement -o benchmarks/results/refinement/NAME.json`.

`--table FILE` prints the tables of `docs/refinement.md` from a result, `--page FILE` makes a page of crops to look at.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.refinement.answer import Method
from benchmarks.refinement.coarse import COARSE, network_matte, reduced
from benchmarks.refinement.figures import Row, aims, band_of, measure
from benchmarks.refinement.methods import ASKED, CHECKPOINT, Refiner, methods, ours
from benchmarks.refinement.page import contact_sheet, save_sheet
from benchmarks.refinement.scenes import SIZES, SceneSpec, load, specs
from benchmarks.refinement.tables import table
from benchmarks.results import write_result
from matting.geometry import restore
from matting.quality import mean_boundary_accuracy, sum_absolute_difference
from server.default_model import refiner_directory
from tests.support.images import photographs
from training.refiner.harmless import sharpened

CACHE = Path(tempfile.gettempdir()) / "birefnet-refinement-scenes"
STAGED = "perturbed"
"""The kind of coarse matte of which every stage is judged."""

_REDUCED = 4
_LARGE = 16_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        specs: The scenes.
        coarse: Kinds of coarse mattes.
        methods: By name, "upsampled" first.
        cache: Where scenes are kept; None draws them anew.
    """

    specs: Sequence[SceneSpec]
    coarse: Sequence[str]
    methods: Mapping[str, Method]
    cache: Path | None


def rows(plan: Plan) -> Iterator[Row]:
    """The figures of every method on every coarse matte of every scene, as they are found."""
    for spec in plan.specs:
        scene = load(spec, plan.cache)
        for kind in plan.coarse:
            coarse = COARSE[kind](scene, spec.seed)
            band = band_of(scene.alpha, (coarse.shape[0], coarse.shape[1]))
            for name, method in plan.methods.items():
                if not counts(spec, kind, name):
                    continue
                started = time.process_time()
                answer = method(scene.image, coarse)
                seconds = time.process_time() - started
                figures = measure(answer.alpha, scene.alpha, band)
                size = (spec.height, spec.width)
                row = Row(spec.name, size, spec.colours, kind, name, figures, answer.work, seconds)
                if kind == STAGED and spec.height * spec.width < _LARGE:
                    row.stages = [mean_boundary_accuracy(stage, scene.alpha) or 0.0 for stage in answer.stages()]
                yield row


def counts(spec: SceneSpec, kind: str, method: str) -> bool:
    """Whether a method is measured: what shows nothing new is left out, as a whole run takes long."""
    large = spec.height * spec.width >= _LARGE
    if method == "single pass":
        return kind == STAGED and not large
    if kind == "network":
        return not large or method not in ("full", ASKED)
    return method != ASKED


def of_photographs(method: Method) -> list[dict[str, Any]]:
    """Do no harm: the embedded network's matte of a photograph, at the photograph's size, is taken for the truth.

    So is the same matte, made sharp. They are area-averaged to a quarter of the sides, upsampled or refined, and
    compared with what they were, in their bands.
    """
    found = []
    for name, photograph in photographs().items():
        soft = restore(network_matte(photograph), (photograph.shape[0], photograph.shape[1]))
        for kind, truth in ((name, soft), (f"{name}, sharp", sharpened(soft))):
            coarse = reduced(truth, _REDUCED)
            band = band_of(truth, (coarse.shape[0], coarse.shape[1]))
            alphas = {"upsampled": restore(coarse, truth.shape), "refined": method(photograph, coarse).alpha}
            errors = {key: round(sum_absolute_difference(alpha, truth, band), 5) for key, alpha in alphas.items()}
            found.append({"photograph": kind, **errors})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, print the tables of what was measured, or make the page."""
    arguments = _parser().parse_args(argv)
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return 0
    refiner = Refiner(arguments.refiner, arguments.checkpoint)
    chosen = specs(arguments.sizes or SIZES, arguments.seeds)
    if arguments.page:
        page = contact_sheet(chosen, partial(ours, refiner), arguments.cache, arguments.crops)
        save_sheet(page, arguments.page)
        return 0
    described = machine.describe("torch", "scikit-image")
    every = methods(refiner, arguments.checkpoint)
    every = {name: every[name] for name in arguments.methods} if arguments.methods else every
    found = _collected(rows(Plan(chosen, tuple(COARSE), every, arguments.cache)))
    pictures = of_photographs(partial(ours, refiner))
    checked = [asdict(aim) for aim in aims(found, pictures)]
    result = {
        "machine": described,
        "refiner": {"name": refiner.name, "sha256": refiner.sha256},
        "rows": found,
        "photographs": pictures,
        "aims": checked,
    }
    words = sys.argv[1:] if argv is None else list(argv)
    if arguments.out:
        write_result(arguments.out, "benchmarks.refinement", words, result)
    print(table(result))
    return 0


def _collected(found: Iterator[Row]) -> list[dict[str, Any]]:
    """The rows, said as they are found: a whole run takes long."""
    collected = []
    for row in found:
        collected.append(row.as_json())
        figures = ", ".join(f"{name} {value:.4f}" for name, value in asdict(row.figures).items())
        print(f"{row.scene} {row.coarse} {row.method}: {figures}, {row.seconds:.0f} s", file=sys.stderr, flush=True)
    return collected


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a result, and measure nothing")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page of crops, and measure nothing")
    parser.add_argument("--crops", type=int, default=3, help="on the page, of each coarse matte of each scene")
    parser.add_argument("--sizes", type=_size, nargs="+", metavar="WxH", help="of the scenes; without it, all three")
    parser.add_argument("--seeds", type=int, default=2, help="scenes of each colours; of the larger sizes one")
    parser.add_argument("--methods", nargs="+", help="of the methods, upsampled among them")
    parser.add_argument("--refiner", type=Path, default=refiner_directory(), help="artifact of the refiner")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="of the same refiner, for its own schedule")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where scenes are kept")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
