"""Measures a bundle: latency with and without adapters, swapping, memory, and two bundles side by side.

The entry is `report.bench`; no torch is needed.
"""
