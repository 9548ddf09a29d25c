"""All benchmarks, one after the other."""

from benchmarks import latency

latency.main()
