"""The command line: `hvplib eigsh FILE.py:NAME`, and what else `hvplib --help` lists."""

from hvplib.cli.main import main

__all__ = ["main"]
