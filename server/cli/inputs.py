"""Which files are read and which are written, planned before any work, so that two inputs never fight over one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.pipeline.formats import SUFFIXES

_SHOWN = 10


class PlanError(Exception):
    """The inputs and the output do not go together; nothing has been done."""


@dataclass(frozen=True, slots=True)
class Job:
    """One image to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        jobs: In the order of the inputs, folders sorted by name.
        missing: Inputs that do not exist.
        passed_over: Files in folders that do not have an image's name.
    """

    jobs: tuple[Job, ...]
    missing: tuple[Path, ...]
    passed_over: int


def plan_jobs(inputs: Sequence[Path], out: Path, suffix: str, *, keep_suffix: bool = False) -> Plan:
    """Decide the output of every input.

    Args:
        inputs: Files, and folders that are searched with their subfolders. Hidden files are left out.
        out: Folder to write to; or the file to write, where the only input is a file.
        suffix: Of the outputs, with the dot.
        keep_suffix: Name outputs `photo.jpg.png` instead of `photo.png`.

    Raises:
        PlanError: Two inputs would become one output, an output would overwrite an input, or the name of the file to
            write promises another format than what will be in it.
    """
    if len(inputs) == 1 and inputs[0].is_file() and out.suffix and not out.is_dir():
        _check_suffix(out, suffix)
        jobs: list[Job] = [Job(inputs[0], out)]
        missing: list[Path] = []
        passed_over = 0
    else:
        jobs, missing, passed_over = _collect(inputs, out, suffix, keep_suffix=keep_suffix)
    _check_collisions(jobs)
    return Plan(tuple(jobs), tuple(missing), passed_over)


def _check_suffix(out: Path, suffix: str) -> None:
    named = out.suffix.lower().replace(".jpeg", ".jpg")
    if named != suffix:
        raise PlanError(f"{out}: expected a name that ends in {suffix}, the format that is written, found {out.suffix}")


def _collect(inputs: Sequence[Path], out: Path, suffix: str, *, keep_suffix: bool) -> tuple[list[Job], list[Path], int]:
    jobs: dict[tuple[Path, Path], Job] = {}
    missing: list[Path] = []
    passed_over = 0
    for given in inputs:
        if given.is_dir():
            if out.resolve() == given.resolve():
                raise PlanError(f"{out}: expected an output folder other than the input folder")
            found = list(_files(given, out.resolve()))
            images = [path for path in found if path.suffix.lower() in SUFFIXES]
            passed_over += len(found) - len(images)
            root = given
        elif given.exists():
            images, root = [given], given.parent
        else:
            missing.append(given)
            continue
        for source in images:
            relative = source.relative_to(root)
            name = relative.name + suffix if keep_suffix else relative.stem + suffix
            target = out / relative.parent / name
            jobs.setdefault((source.resolve(), target), Job(source, target))
    return list(jobs.values()), missing, passed_over


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """Files below a folder, sorted, without hidden ones and without those that we write ourselves."""
    for directory, subdirectories, names in os.walk(folder):
        here = Path(directory)
        subdirectories[:] = sorted(
            name for name in subdirectories if not name.startswith(".") and (here / name).resolve() != out
        )
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _check_collisions(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve(): job.source for job in jobs}
    by_target: dict[Path, list[Path]] = {}
    for job in jobs:
        by_target.setdefault(job.target.resolve(), []).append(job.source)
    clashes = [f"{' and '.join(map(str, found))} → {target}" for target, found in by_target.items() if len(found) > 1]
    if clashes:
        raise PlanError(
            "expected one output for every input, found several inputs for one (--keep-suffix names them apart):\n"
            + _listed(clashes)
        )
    if overwritten := [str(sources[target]) for target in by_target if target in sources]:
        raise PlanError(
            "expected outputs that are no inputs, found that these would be overwritten:\n" + _listed(overwritten)
        )


def _listed(lines: Sequence[str]) -> str:
    more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([*(f"  {line}" for line in lines[:_SHOWN]), *more])
