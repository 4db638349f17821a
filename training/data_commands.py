"""`python -m training sheet` shows procedural photographs, `speed` measures what they cost, `pool` keeps them."""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from training.data.degrade import Photo
from training.data.phenomena import KINDS
from training.data.pool import PoolContents, fill
from training.data.raster import Plane
from training.data.recomposition import make_bank, recomposed
from training.data.scene import sample
from training.data.sets import SETS
from training.data.subjects import FAMILIES, RICH_FAMILIES
from training.preview import write_sheet

_COLUMNS = 5


def _row(image: Photo, alpha: Plane) -> Photo:
    return np.concatenate([image, np.repeat((alpha * 255).astype(np.uint8)[..., None], 3, axis=2)], axis=1)


def _sheet(options: argparse.Namespace) -> None:
    source = SETS[options.set]
    if options.kind:
        source = replace(source, mixture={options.kind: 1.0})
    indices = range(options.first, options.first + options.count)
    if options.recomposed:
        bank = make_bank(source, options.recomposed, options.size)
        images, alphas = recomposed(bank, source.seed, indices)
        rows = [_row(image, alpha) for image, alpha in zip(images.numpy(), alphas[:, 0].numpy(), strict=True)]
    elif options.family:
        rows = [_row(*sample(index, options.size, source.seed, source.level, options.family)) for index in indices]
    else:
        rows = [_row(*source.item(index, options.size)) for index in indices]
    write_sheet(options.out, rows, _COLUMNS)


def _speed(options: argparse.Namespace) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    source, device = SETS[options.set], torch.device(options.device)
    for index in range(options.count):
        source.item(options.count + index, options.size)  # makes the textures
    milliseconds = _measured(lambda: [source.item(k, options.size) for k in range(options.count)], options.count)
    print(f"{options.set}, {options.size} pixels, one core: {milliseconds:.1f} ms of the processor for each image")
    bank = make_bank(source, options.ingredients, options.size).to(device)
    recomposed(bank, 0, range(options.batch))
    rounds = [range(k, k + options.batch) for k in range(0, options.count, options.batch)]
    milliseconds = _measured(
        lambda: [recomposed(bank, 0, each) for each in rounds], len(rounds) * options.batch, device
    )
    print(f"put together anew on {device}, {options.batch} at once: {milliseconds:.2f} ms for each image")


def _measured(work: Callable[[], object], count: int, device: torch.device | None = None) -> float:
    """Milliseconds for each of `count` images: of the processor, or by the clock where a GPU works."""
    on_gpu = device is not None and device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    begin = clock()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - begin) / count * 1000


def _pool(options: argparse.Namespace) -> None:
    fill(options.out, PoolContents(options.set, options.first, options.count, options.size), options.processes)


def add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to those of `python -m training`."""
    sheet = commands.add_parser("sheet", help="contact sheet of procedural photographs and their mattes")
    sheet.add_argument("--set", choices=sorted(SETS), default="train")
    chosen = sheet.add_mutually_exclusive_group()
    chosen.add_argument("--kind", choices=sorted(KINDS), help="only this kind of scene")
    chosen.add_argument("--family", choices=sorted(FAMILIES | RICH_FAMILIES), help="only this subject, in plain scenes")
    sheet.add_argument("--recomposed", type=int, metavar="N", help="put together anew from the first N scenes")
    sheet.add_argument("--first", type=int, default=0)
    sheet.add_argument("--count", type=int, default=40)
    sheet.add_argument("--size", type=int, default=192)
    sheet.add_argument("--out", type=Path, default=Path("sheet.png"))
    sheet.set_defaults(run=_sheet)

    speed = commands.add_parser("speed", help="what a procedural photograph costs")
    speed.add_argument("--set", choices=sorted(SETS), default="rich")
    speed.add_argument("--size", type=int, default=256)
    speed.add_argument("--count", type=int, default=96)
    speed.add_argument("--ingredients", type=int, default=32, help="subjects and backgrounds on the device")
    speed.add_argument("--batch", type=int, default=16)
    speed.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    speed.set_defaults(run=_speed)

    pool = commands.add_parser("pool", help="procedural photographs made once, for many rounds of training")
    pool.add_argument("--set", choices=sorted(SETS), default="rich")
    pool.add_argument("--first", type=int, default=0, help="index of the first image")
    pool.add_argument("--count", type=int, required=True)
    pool.add_argument("--size", type=int, default=256)
    pool.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    pool.add_argument("--out", type=Path, required=True, help="folder; a pool in it is replaced")
    pool.set_defaults(run=_pool)
