"""The composition root: the only place that knows every part, and names concrete backends."""

from server.app.composition import open_pipeline
from server.app.lifecycle import run, serve

__all__ = ["open_pipeline", "run", "serve"]
