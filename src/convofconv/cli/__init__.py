"""The command line ``coc``, one file per family of commands."""

from .entry import main

__all__ = ["main"]
