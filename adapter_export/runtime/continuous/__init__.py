"""Generates for many callers at once: prompts join a batch, and rows leave it, between two tokens."""
