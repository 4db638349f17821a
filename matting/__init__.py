"""The domain: geometry and composition of alpha mattes. numpy, Pillow, OpenCV; no I/O, no torch."""
