"""The batching engine: one queue, late-bound batches, one thread per device that owns it.

The public surface is four names. `server.engine.admission` is the door in front of it, `server.engine.batching` its
pure core.
"""

from server.engine.engine import Engine
from server.engine.items import EngineLimits, Item, Outcome

__all__ = ["Engine", "EngineLimits", "Item", "Outcome"]
