"""CRM as it was published, in torch: every stage encoded at its own size and decoded at the image's, everywhere."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.refinement.answer import Answer, Method
from benchmarks.refinement.scenes import Image, Plane
from matting.geometry import restore
from modeling.crm.cascade import SCHEDULE, SINGLE_PASS, CascadeOptions, stages
from modeling.crm.network import CRM
from modeling.crm.weights import load_refiner


def published(checkpoint: Path) -> Mapping[str, Method]:
    """The published schedule, and a single pass at full size, which must be worse."""
    network = load_refiner(checkpoint)
    schedules = {"full": CascadeOptions(scales=SCHEDULE), "single pass": CascadeOptions(scales=SINGLE_PASS)}
    return {name: partial(_run, network, options) for name, options in schedules.items()}


def _run(network: CRM, options: CascadeOptions, image: Image, coarse: Plane) -> Answer:
    start = restore(coarse, (image.shape[0], image.shape[1]))
    found = [start, *stages(network, image, start, options)]
    megapixels = sum(scale**2 for scale in options.scales) * image.shape[0] * image.shape[1] / 1e6
    return Answer(found[-1], megapixels, lambda: found)
