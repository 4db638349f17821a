"""The life of one request: decode, infer, compose, encode."""
