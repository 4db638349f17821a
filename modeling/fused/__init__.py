"""Networks on fused Triton kernels, for GPUs: the same function with a fraction of the memory traffic.

`fuse` makes one of a trained network. The kernels are checked against the plain modules in Triton's interpreter on the
CPU, and on a GPU by the tests marked `gpu`. Importing this package needs `triton`, which torch for CUDA brings along.
"""

from modeling.fused.launches import Launches, Task
from modeling.fused.network import FusedBiRefNet, fuse

__all__ = ["FusedBiRefNet", "Launches", "Task", "fuse"]
