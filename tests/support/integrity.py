"""Whether an installed distribution still has the files that its wheel brought, and whether others claim the same.

Our packages have generic names, and pip lets another distribution overwrite `server/__init__.py` without a word. Run as
`python tests/support/integrity.py` in an image build; standard library only.
"""

import base64
import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

NAME = "birefnet-server"
PACKAGES = ("server", "model_export", "modeling", "matting", "artifact", "plans", "protos")


def damaged_files(installed: Distribution) -> list[str]:
    """Files of a distribution that are missing, or are not what its RECORD says."""
    damaged = []
    for entry in installed.files or ():
        if entry.hash is None:  # RECORD itself, and compiled files
            continue
        try:
            content = Path(str(entry.locate())).read_bytes()
        except OSError:
            damaged.append(f"{entry}: missing")
            continue
        digest = base64.urlsafe_b64encode(hashlib.new(entry.hash.mode, content).digest()).rstrip(b"=").decode()
        if digest != entry.hash.value:
            damaged.append(f"{entry}: not the file that was installed")
    return damaged


def rival_distributions(installed: Iterable[Distribution]) -> list[str]:
    """Other distributions that bring files into our packages."""
    return [
        f"{found.metadata['Name']}: {entry}"
        for found in installed
        if found.metadata["Name"] != NAME
        for entry in found.files or ()
        if entry.parts[0] in PACKAGES
    ]


def main() -> int:
    """Check the environment this runs in; the exit code."""
    problems = damaged_files(distribution(NAME)) + rival_distributions(distributions())
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
