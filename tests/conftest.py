"""What holds for every test."""

import os
from pathlib import Path

# Triton looks when it is first imported, by torch at any time, whether kernels are compiled for a GPU or interpreted.
if not any(Path(sign).exists() for sign in ("/dev/nvidiactl", "/proc/driver/nvidia/version")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
