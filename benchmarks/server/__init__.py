"""The server under load. See `benchmarks.server.__main__`."""
