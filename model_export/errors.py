"""What can go wrong between a checkpoint and a proven artifact."""


class ExportError(Exception):
    """A request that cannot be carried out as it is; the message says what was expected and what was found."""


class SourceError(ExportError):
    """SOURCE names no checkpoint."""


class ParityError(ExportError):
    """The artifact does not compute what the network computes."""


class PatchOrderError(SourceError):
    """Nobody knows the patch order of a checkpoint, or those who should contradict each other."""
