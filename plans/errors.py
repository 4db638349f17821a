"""What can go wrong between a plan and its GPU."""

OUT_OF_MEMORY = 2
"""`cudaErrorMemoryAllocation`: no reason to give up the device, a smaller batch may fit."""

# After one of these every later call of the process fails with the same error; only a new process cures it. By name:
# DevicesUnavailable, ECCUncorrectable, IllegalAddress, LaunchTimeout, ContextIsDestroyed, Assert, HardwareStackError,
# IllegalInstruction, MisalignedAddress, InvalidAddressSpace, InvalidPc, LaunchFailure, NvlinkUncorrectable,
# TensorMemoryLeak, Unknown.
_FATAL = frozenset({46, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})


class PlanError(Exception):
    """A plan cannot be loaded or run; the message says what was expected and what was found."""


class DeviceError(PlanError):
    """A call of CUDA failed.

    Attributes:
        code: The number of the `cudaError_t`.
        name: What CUDA calls it.
    """

    def __init__(self, what: str, code: int, name: str) -> None:
        super().__init__(f"{what}: CUDA error {code}, {name}")
        self.code = code
        self.name = name

    @property
    def out_of_memory(self) -> bool:
        """Whether a smaller batch may succeed."""
        return self.code == OUT_OF_MEMORY

    @property
    def fatal(self) -> bool:
        """Whether the process has lost its device."""
        return self.code in _FATAL
