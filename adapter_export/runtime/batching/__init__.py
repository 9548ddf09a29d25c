"""Combines requests of single rows into batches."""
