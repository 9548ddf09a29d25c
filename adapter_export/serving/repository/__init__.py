"""Adapters that are loaded and unloaded over HTTP, in all workers."""
