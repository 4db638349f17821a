"""What the runtimes' errors mean: the batch was too large, the device is lost, or only this batch failed.

CUDA's libraries say it in text alone, and the runtimes pass the text on.
"""

from server.backends.base import BackendFault, OutOfMemoryFault

OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "allocation failed", "alloc_failed")
# A CUDA context that has failed in one of these ways answers every later call with the same error.
FATAL = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "uncorrectable ecc",
    "cuda failure 700",
    "cuda failure 710",
    "cuda failure 719",
    "gpu is lost",
)


def fault_of(error: Exception, what: str, *, lost: bool = False) -> BackendFault:
    """The fault that a runtime's error is.

    Args:
        error: As the runtime raised it.
        what: Was being done, to begin the message with.
        lost: Whether the kind of the error alone says that the device is gone.
    """
    text = str(error).lower()
    message = f"{what}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return OutOfMemoryFault(message)
    return BackendFault(message, fatal=lost or any(sign in text for sign in FATAL))
