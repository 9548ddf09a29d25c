"""Which extras a command needs, with the `pip install` command for them."""

from __future__ import annotations

# Packages that are not in the base install -> the extras of pyproject.toml that include them, the smallest first.
EXTRAS = {
    "accelerate": ("train",),
    "httptools": ("serve",),
    "matplotlib": ("report",),
    "onnx_ir": ("export",),
    "onnxscript": ("export",),
    "peft": ("export",),
    "prometheus_client": ("serve",),
    "pyarrow": ("train",),
    "pydantic": ("serve",),
    "ray": ("ray",),
    "sentencepiece": ("export", "train"),
    "starlette": ("serve",),
    "torch": ("export", "train"),
    "transformers": ("export", "train"),
    "uvicorn": ("serve",),
}


def advice(module: str, command: str | None) -> str | None:
    """Returns a message that says what to install; None if no extra includes the missing package.

    Args:
        module: The module that cannot be imported.
        command: Name of the command; None if it is not known.
    """
    package = module.partition(".")[0]
    if (extras := EXTRAS.get(package)) is None:
        return None
    extra = "train" if command == "train" else extras[0]
    what = f"'{command}' needs" if command else "this needs"
    return f"{what} the extra [{extra}], as {package} is not installed: pip install 'adapter-export[{extra}]'"
