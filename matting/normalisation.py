"""What the network expects colours to be: ImageNet's statistics, as the released checkpoints were trained with."""

MEAN = (0.485, 0.456, 0.406)
"""Mean of R, G, B, where a byte is divided by 255."""

DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B, on the same scale."""
