"""`adapter-export reference`."""

from __future__ import annotations

import click

from adapter_export.cli.options import Command, debug_option, emit, json_option
from adapter_export.errors import InputError

EXAMPLE = """\
Example:
  adapter-export reference --script > recorder.py

Then run recorder.py where the library that trained the adapter is installed. Without options, it explains how.
`adapter-export parity` compares a bundle with the file that it writes.
"""


@click.command("reference", cls=Command, epilog=EXAMPLE)
@click.option("--script", "as_script", is_flag=True, help="Print the script that records a reference.")
@json_option
@debug_option
def command(as_script: bool, as_json: bool) -> None:
    """Print the script that records what an adapter computes, with the library that trained it.

    The script is one file that needs numpy, torch, transformers and PEFT or AdapterHub's `adapters`, but not this
    package.
    """
    from adapter_export.parity.recording.script import script

    if not as_script:
        raise InputError("expected --script, which prints the recorder; found nothing to do")
    emit({"script": script()}, as_json, lambda result: click.echo(result["script"], nl=False))
