"""The folder that an export writes: its manifest, its adapter files, and adding adapters to it.

`manifest.read_manifest` reads one; `add.add_adapter` is the command `add`. Neither torch nor onnxruntime is needed.
"""
