"""Describes whatever a path holds: a checkpoint, a model, a bundle, a graph, an adapter file.

The entry is `describe.describe`.
"""
