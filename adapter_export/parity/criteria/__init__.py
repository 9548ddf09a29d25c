"""Acceptance criteria: what is measured of an output, and when the numbers show that a graph is right.

`select.py` chooses between the criteria for floating-point graphs (`judge.py`) and for 8-bit weights (`quantized.py`).
"""
