"""Who leaves the queue together, and when."""

from enum import IntEnum


class Priority(IntEnum):
    """Lower goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2
