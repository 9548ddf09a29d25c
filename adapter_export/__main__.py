"""`python -m adapter_export` is `adapter-export`."""

from adapter_export.cli import main

main(prog_name="adapter-export")
