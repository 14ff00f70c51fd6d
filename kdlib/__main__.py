"""python -m kdlib COMMAND: what make does, on any system. `batch.cli` has the commands."""

import sys

from .batch.cli import command, main

__all__ = ["command", "main"]

if __name__ == "__main__":
    sys.exit(command())
