"""Checks of a bundle besides single cases, each of which gives lines of the report.

They judge generated text, the tokenizer, where nodes ran, the reading of checkpoints, and the bundle as a whole.
"""
