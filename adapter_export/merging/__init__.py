"""Folds adapters into the weights of a base model.

The command `merge.merge` does it file by file, without building the model. An export does it in memory, with
`model.merge_into`.
"""
