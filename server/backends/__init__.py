"""Implementations of the `Backend` port."""
