"""The procedural photographs: an image and its exact alpha matte for every index of a seed."""
