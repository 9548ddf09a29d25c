"""Measures a bundle: latency with and without adapters, swapping and memory; and compares two bundles.

Begin with `report.bench`. torch is not needed.
"""
