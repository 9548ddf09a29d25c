"""Writing to disk: outputs appear whole or not at all, one writer at a time, and nothing of anybody else's is lost."""
