"""The torch backend: fp16 on fused kernels and CUDA graphs on a GPU, fp32 on a CPU. Needs the extra `torch`.

The one place of the serving side that imports torch and `modeling`; it is imported only when it is chosen.
"""

from server.backends.torch_cuda.backend import TorchBackend, TorchOptions, has_cuda

__all__ = ["TorchBackend", "TorchOptions", "has_cuda"]
