"""Measurements, each beside its reference in one run. `make bench` prints all tables."""
