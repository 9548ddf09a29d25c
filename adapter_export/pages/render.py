"""Makes a page of its parts. Every text is escaped; plots alone are markup already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.util import find_spec

from markupsafe import Markup

from adapter_export.machine import Machine
from adapter_export.pages.colours import variables
from adapter_export.pages.parts import Section, Word
from adapter_export.terminal import visible

# Stand before verdicts, which are thus not told by their colour alone.
_SIGNS = {"pass": "\u2713", "inconclusive": "?", "fail": "\u2717"}


def render(title: str, lead: Sequence[str], sections: Sequence[Section], verdict: Word | None = None) -> str:
    """Returns a page as HTML: one file that needs no network, no scripts and no other file.

    Args:
        title: Its title.
        lead: What is most important, one text a paragraph.
        sections: The sections.
        verdict: The verdict, which stands before everything else; None for a page without one.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("adapter_export.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(style=Markup(_style()), signs=_SIGNS)
    text = environment.get_template("page.html").render(title=title, lead=lead, sections=sections, verdict=verdict)
    # Marks of text direction could make a name look like another one.
    return visible(text)


def check_plots() -> None:
    """Checks that plots can be drawn, before minutes are spent on what they show.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def machine_facts(machine: Machine | None) -> Iterator[tuple[str, str]]:
    """Yields what a measurement ran on, as names and values."""
    if machine is None:
        return
    yield "date", machine.date
    yield "processor", machine.processor
    yield "cores", "unknown" if machine.cores is None else str(machine.cores)
    yield "system", machine.system
    yield from machine.versions.items()


def machine_line(machine: Machine | None) -> Iterator[str]:
    """Yields one text with the date, the processor and the version of ONNX Runtime; nothing without a machine."""
    if machine is not None:
        runtime = machine.versions.get("onnxruntime", "of an unknown version")
        yield f"Measured {machine.date} on {machine.processor}, with ONNX Runtime {runtime}."


def _style() -> str:
    """Returns the style sheet, with the light colours for paper, too."""
    sheet = (resources.files("adapter_export.pages") / "style.css").read_text(encoding="utf-8")
    light, dark = variables(dark=False), variables(dark=True)
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{sheet}"
