"""TensorRT plans on a GPU: the two libraries behind one door, and what runs a plan.

Shared by the export, which holds a new plan against its graph, and by the server, so that what was verified is what
serves. No torch. `tensorrt` and the CUDA bindings are imported by `plans.platform` alone, and only when it is called:
everything else takes them as values.
"""

from plans.cuda import Cuda
from plans.errors import DeviceError, PlanError
from plans.platform import Platform, open_platform
from plans.runner import PlanRunner

__all__ = ["Cuda", "DeviceError", "PlanError", "PlanRunner", "Platform", "open_platform"]
