"""The bundle, which is the folder that an export writes: its manifest, its adapter files, adding and removing adapters.

`manifest.read_manifest` reads a manifest; `add.add_adapter` is the command `add`. torch is not needed.
"""
