"""Synthetic data, losses and the training loop (checkout only, not in the wheel)."""
