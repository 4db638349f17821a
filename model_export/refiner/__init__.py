"""The export of refiners: image, mask and frame in, alpha out; contract and proof as the matte networks' are."""
