"""CRM as it was published, in torch: every stage encoded at its own size and decoded at the image's, everywhere."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.refinement.answer import Answer, Method
from benchmarks.refinement.scenes import Image, Plane
from benchmarks.refinement.work import Cost, cost_of
from matting.geometry import restore
from matting.refinement import TileShape
from modeling.crm.cascade import SCHEDULE, SINGLE_PASS, CascadeOptions, stages
from modeling.crm.network import CRM
from modeling.crm.weights import load_refiner


def published(checkpoint: Path, shape: TileShape) -> Mapping[str, Method]:
    """The published schedule, and a single pass at full size, which must be worse."""
    network = load_refiner(checkpoint)
    cost = cost_of(network, shape)
    schedules = {"full": CascadeOptions(scales=SCHEDULE), "single pass": CascadeOptions(scales=SINGLE_PASS)}
    return {name: partial(_run, network, cost, options) for name, options in schedules.items()}


def _run(network: CRM, cost: Cost, options: CascadeOptions, image: Image, coarse: Plane) -> Answer:
    start = restore(coarse, (image.shape[0], image.shape[1]))
    found = [start, *stages(network, image, start, options)]
    pixels = image.shape[0] * image.shape[1]
    # As published every stage is encoded whole; that it is in tiles here, for memory, and their halos do not count.
    work = cost.giga(sum(scale**2 for scale in options.scales) * pixels, len(options.scales) * pixels)
    return Answer(found[-1], work, lambda: found)
