"""`adapter-export reference`."""

from __future__ import annotations

import click

from adapter_export.cli.options import Command, debug_option, emit, json_option
from adapter_export.errors import InputError

EXAMPLE = """\
Example:
  adapter-export reference --script > recorder.py

Then run recorder.py where the library that trained the adapter is installed; without options it says how. What it
writes is judged by `adapter-export parity`, see there.
"""


@click.command("reference", cls=Command, epilog=EXAMPLE)
@click.option("--script", "as_script", is_flag=True, help="Print the script that records a reference.")
@json_option
@debug_option
def command(as_script: bool, as_json: bool) -> None:
    """Print the script that records what an adapter computes, by the library that trained it.

    It is one file that needs numpy, torch, transformers and PEFT or AdapterHub's `adapters`, and nothing of ours.
    """
    from adapter_export.parity.recording.script import script

    if not as_script:
        raise InputError("expected --script, which prints the recorder; found nothing to do")
    emit({"script": script()}, as_json, lambda result: click.echo(result["script"], nl=False))
