"""Requests of single rows, gathered into batches."""
