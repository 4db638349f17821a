"""The commands. Each imports what it needs when it runs."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.flags import settings_from

if TYPE_CHECKING:
    from server.cli.inputs import Plan
    from server.pipeline.request import SegmentOptions
    from server.settings import Settings

FAILED = 1
_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".zip", ".tif", ".tiff", ".npy")  # that say the format
WRONG_USAGE = 2


def serve_command(arguments: argparse.Namespace) -> int:
    """`serve`: until SIGTERM or Ctrl-C."""
    settings = settings_from(arguments)
    from server.app import run

    return run(settings)


def models_command(arguments: argparse.Namespace) -> int:
    """`models`: what would be served."""
    settings = settings_from(arguments)
    from server.app.composition import served_models
    from server.pipeline.models import Models, ModelsError

    try:
        listing = Models(served_models(settings)).listing()
    except ModelsError as error:
        return _failed(str(error))
    if arguments.json:
        print(json.dumps(listing, indent=2))
        return 0
    for facts in listing:
        default = " (default)" if facts["default"] else ""
        size = "×".join(str(side) for side in reversed(facts["size"]))
        print(f"{facts['name']}{default}: {facts['title']}, {facts['backbone']}, {size} pixels")
        print(f"  licence {facts['licence']}, sha256 {facts['sha256'][:12]}")
        if limits := [f"{name}={value:g}" for name, value in facts["limits"].items() if value is not None]:
            print(f"  limits {' '.join(limits)}")
        for key, value in facts["origin"].items():
            print(f"  {key}: {value}")
    return 0


def key_command(arguments: argparse.Namespace) -> int:
    """`key`: a new API key, and its line for the file of hashes."""
    from server.access.keys import KeysError, make_key, write_row

    key = make_key()
    try:
        row = write_row(arguments.name, key, arguments.limit)
    except KeysError:
        print(
            "birefnet-server: expected a name of 1 to 64 letters, digits and ._- that begins with a letter or a digit "
            "and is no key, and a positive limit",
            file=sys.stderr,
        )
        return WRONG_USAGE
    print(row)
    print(f"The key of {arguments.name}, which is shown only this once:\n{key}", file=sys.stderr)
    return 0


def settings_command(arguments: argparse.Namespace) -> int:
    """`settings`: what would hold, or the reference page."""
    from server.cli.settings_page import as_toml, reference_page

    if arguments.markdown:
        print(reference_page(), end="")
    else:
        print(as_toml(settings_from(arguments)), end="")
    return 0


def segment_command(arguments: argparse.Namespace) -> int:
    """`segment`: files and folders, in this process."""
    settings = settings_from(arguments)
    from server.cli.inputs import PlanError, plan_jobs
    from server.errors import InvalidOptionError
    from server.observability.logs import configure_logging

    quiet = "warning" if "log_level" not in settings.model_fields_set else settings.log_level
    configure_logging(settings.log_format, quiet)
    try:
        options = _options(arguments)
        suffix = ".jpg" if options.format == "jpeg" else f".{options.format}"
        inputs = [Path(text) for text in arguments.inputs]
        plan = plan_jobs(inputs, Path(arguments.out), suffix, keep_suffix=arguments.keep_suffix)
    except (InvalidOptionError, PlanError) as error:
        print(f"birefnet-server: {error}", file=sys.stderr)
        return WRONG_USAGE
    return _segment(plan, options, settings, force=arguments.force)


def _options(arguments: argparse.Namespace) -> "SegmentOptions":
    from dataclasses import replace

    from server.pipeline.options import parse_options

    out = Path(arguments.out)
    values = {"output": arguments.output or "cutout"}
    for name in ("format", "background", "foreground", "depth", "refine", "crop"):
        if (value := getattr(arguments, name)) is not None:
            values[name] = value
    # `-o photo.webp` says the format, unless OUT is a folder of that name.
    if "format" not in values and out.suffix.lower() in _SUFFIXES and not out.is_dir():
        values["format"] = out.suffix.lower().removeprefix(".")
    return replace(parse_options(values), timeout_s=float("inf"))


def _segment(plan: "Plan", options: "SegmentOptions", settings: "Settings", *, force: bool) -> int:
    from server.cli.progress import Progress

    jobs = [job for job in plan.jobs if force or not job.target.exists()]
    progress = Progress(len(jobs) + len(plan.missing), sys.stderr)
    for path in plan.missing:
        progress.fail(path, "no such file or folder")
    lost = None
    if jobs:
        from server.cli.session import run_jobs

        lost = run_jobs(jobs, options, settings, progress)
    progress.finish()
    if lost is not None:
        _failed(lost)
    skipped = len(plan.jobs) - len(jobs)
    notes = [f"{progress.done} done in {progress.elapsed_s:.1f} s", f"{progress.failed} failed"]
    notes += [f"{skipped} skipped because their output exists"] if skipped else []
    notes += [f"{plan.passed_over} other files passed over"] if plan.passed_over else []
    print(", ".join(notes), file=sys.stderr)
    return FAILED if progress.failed or lost is not None else 0


def _failed(message: str) -> int:
    print(f"birefnet-server: {message}", file=sys.stderr)
    return FAILED
