"""Many adapters in one session: mode `bank` against what else there is. See `benchmarks.serving.__main__`."""
