"""The artifact directory and its manifest, read by both sides of the torch wall."""
