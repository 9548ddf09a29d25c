"""Kinds of adapters, one file for each."""
