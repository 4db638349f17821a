"""A trained network becomes an artifact, proven equal to it."""
