"""What a GPU does with our networks: parity, speed, memory, the live server, training. `python -m benchmarks.gpu`."""
