"""Benchmarks: methodology in README.md, runners here, committed results under `results/` (checkout only)."""
