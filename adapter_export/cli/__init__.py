"""The `adapter-export` command line."""

from adapter_export.cli.main import main

__all__ = ["main"]
