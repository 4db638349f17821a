"""BiRefNet: two-scale Swin encoder, deformable-convolution decoder, inward and outward reference."""
