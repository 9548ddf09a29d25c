"""Describes what a path holds: a checkpoint, a model, a bundle, a graph or an adapter file.

The entry is `describe.describe`.
"""
