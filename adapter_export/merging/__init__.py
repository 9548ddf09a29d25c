"""Folds adapters into the weights next to them.

`merge.merge`, the command, does it file by file without building the model; `model.merge_into` in memory, for an
export.
"""
