"""The artifact in the package: a small model, so that the server works at once on any machine.

`CARD.md` beside it says what it was trained on and what it is not good for.
"""

from pathlib import Path


def directory() -> Path:
    """Where the artifact lies."""
    return Path(__file__).parent
