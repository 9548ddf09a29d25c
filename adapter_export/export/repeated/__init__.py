"""Layers that repeat: a model with many equal layers is traced with a few of them, and the graph gets the others."""
