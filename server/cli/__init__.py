"""The command line: `birefnet-server serve | segment | models | settings`."""

from server.cli.program import main

__all__ = ["main"]
