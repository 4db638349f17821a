"""Which command runs, and how its end is told.

Rules of this module: nothing heavy is imported before it is known that it is needed; `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence

from server.cli.commands import key_command, models_command, segment_command, serve_command, settings_command
from server.cli.flags import add_setting_flags
from server.settings import InvalidSettingsError, Settings

_SEGMENT_SETTINGS = (
    "model",
    "models_dir",
    "refiner",
    "backend",
    "device",
    "allow_cpu",
    "gpu_memory_mib",
    "gpu_streams",
    "tune_kernels",
    "build_plans",
    "threads",
    "max_batch",
    "cpu_workers",
    "max_megapixels",
    "max_upload_mib",
    "png_level",
    "jpeg_quality",
    "webp_quality",
    "scaled_decode",
    "log_level",
    "log_format",
    "fake_latency_s",
)

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0 all is well, 1 something failed, 2 the command line or a setting is wrong, 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except InvalidSettingsError as error:
        print(f"birefnet-server: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="birefnet-server",
        description="Removes image backgrounds: an image goes in, an alpha matte comes out.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="Print the version and exit.")
    parser.set_defaults(run=_without_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands)
    _add_segment(commands)
    _add_models(commands)
    _add_key(commands)
    _add_settings(commands)
    return parser


def _without_command(parser: argparse.ArgumentParser) -> object:
    def run(arguments: argparse.Namespace) -> int:
        if not arguments.version:
            parser.print_help(sys.stderr)
            return USAGE_ERROR
        from server.observability.metrics import package_version

        print(f"birefnet-server {package_version()}")
        return 0

    return run


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="Serve over HTTP and gRPC.",
        description="Serve over HTTP and gRPC until SIGTERM or Ctrl-C, then finish what is inside and exit.",
    )
    add_setting_flags(serve, tuple(Settings.model_fields))
    serve.set_defaults(run=serve_command)


def _add_segment(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    segment = commands.add_parser(
        "segment",
        allow_abbrev=False,
        help="Cut out the subjects of image files and folders.",
        description="Cut out the subjects of image files, and of all images in folders and their subfolders. A file is "
        "written under a temporary name and renamed when it is whole, and what exists is skipped: run the same command "
        "again to go on after a break.",
        epilog="Exit status: 0 if every input has its output, 1 if any failed, 2 if the command line is wrong.",
    )
    segment.add_argument("inputs", nargs="+", metavar="INPUT", help="Image file, or folder of images.")
    segment.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="Folder for the results, named after the inputs; for a single file also the file to write.",
    )
    segment.add_argument(
        "--output",
        default=None,
        metavar="WHAT",
        help="cutout: colours and alpha (default). matte: alpha alone. composite: over a plain background. "
        "trimap: 0, 128 where unknown, 255.",
    )
    segment.add_argument(
        "--format",
        default=None,
        metavar="FORMAT",
        help="png (default), webp, tiff, npy, zip for cutouts, or jpeg without alpha.",
    )
    segment.add_argument("--depth", default=None, metavar="BITS", help="Of a matte as png or tiff: 8 (default) or 16.")
    segment.add_argument(
        "--background", default=None, metavar="COLOUR", help="Behind a composite: white (default), #1e90ff, 30,144,255."
    )
    segment.add_argument(
        "--foreground",
        default=None,
        metavar="COLOURS",
        help="Of cutouts and composites where they are not opaque: estimate (default), free of the old background, or "
        "original.",
    )
    segment.add_argument(
        "--refine", default=None, metavar="WHEN", help="Sharp at the image's own resolution: auto (default), off, on."
    )
    segment.add_argument(
        "--crop", default=None, metavar="WHEN", help="Show the network small subjects again: off (default), auto."
    )
    segment.add_argument(
        "--keep-suffix",
        action="store_true",
        help="Name results `photo.jpg.png`, so that photo.jpg and photo.webp do not collide.",
    )
    segment.add_argument("--force", action="store_true", help="Make outputs anew that exist already.")
    add_setting_flags(segment, _SEGMENT_SETTINGS)
    segment.set_defaults(run=segment_command)


def _add_models(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    models = commands.add_parser(
        "models",
        allow_abbrev=False,
        help="List the models that would be served.",
        description="List the models that would be served with these settings: name, size, licence, origin. Their "
        "files are checked against their hashes.",
    )
    models.add_argument("--json", action="store_true", help="As JSON, like GET /models.")
    add_setting_flags(models, ("model", "models_dir", "model_limits"))
    models.set_defaults(run=models_command)


def _add_key(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    key = commands.add_parser(
        "key",
        allow_abbrev=False,
        help="Make an API key.",
        description="Make an API key. Standard output gets the line for the file that api_keys_file names, which holds "
        "the key's hash alone: append it with >>. The key itself goes to standard error, this once.",
        epilog="To replace a key, append a second line of the same name, hand out its key, then delete the first line: "
        "the server reads the file again by itself, and both count for one rate limit.",
    )
    key.add_argument("name", metavar="NAME", help="Of the account: shown in the log. Keys of one name share its limit.")
    key.add_argument(
        "--limit",
        type=float,
        default=None,
        metavar="MEGAPIXELS",
        help="Per minute, instead of rate_limit_megapixels.",
    )
    key.set_defaults(run=key_command)


def _add_settings(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    settings = commands.add_parser(
        "settings",
        allow_abbrev=False,
        help="Print the settings that would hold.",
        description="Print the settings that would hold with this environment, file and these flags, as TOML.",
    )
    settings.add_argument("--markdown", action="store_true", help="Print the reference page of all settings instead.")
    add_setting_flags(settings, tuple(Settings.model_fields))
    settings.set_defaults(run=settings_command)
