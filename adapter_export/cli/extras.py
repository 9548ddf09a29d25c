"""What a command needs beyond the base install, said in the words of `pip install`."""

from __future__ import annotations

# Packages that are not in the base install -> the extras of pyproject.toml that bring them, the smallest first.
EXTRAS = {
    "accelerate": ("train",),
    "onnx_ir": ("export",),
    "onnxscript": ("export",),
    "peft": ("export",),
    "pyarrow": ("train",),
    "sentencepiece": ("export", "train"),
    "torch": ("export", "train"),
    "transformers": ("export", "train"),
}


def advice(module: str, command: str | None) -> str | None:
    """The line for a command that imports `module`, which is not installed; None where no extra brings it."""
    package = module.partition(".")[0]
    if (extras := EXTRAS.get(package)) is None:
        return None
    extra = "train" if command == "train" else extras[0]
    what = f"'{command}' needs" if command else "this needs"
    return f"{what} the extra [{extra}], as {package} is not installed: pip install 'adapter-export[{extra}]'"
