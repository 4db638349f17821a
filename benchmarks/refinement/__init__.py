"""How good refinement is at 2K to 6K: a fixed set of scenes, coarse mattes, methods, figures, and pages to look at."""

from benchmarks.refinement.tables import table

__all__ = ["table"]
