"""The artifacts in the package: a small model and its refiner, so that the server works at once on any machine.

`CARD.md` beside them says what they were trained on and what they are not good for.
"""

from pathlib import Path


def directory() -> Path:
    """Where the artifact lies."""
    return Path(__file__).parent


def refiner_directory() -> Path:
    """Where the refiner's artifact lies."""
    return directory() / "refine"
