"""Generates texts with a bundle of a language model: the loop, the choice of tokens, and the cache."""
