"""The wire contract and its one generated copy."""
