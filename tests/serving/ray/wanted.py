"""What deployed.py asks for, and test_deployed.py expects."""

from __future__ import annotations

# How many replicas of classifiers there may be.
MOST = 3
# What the language model continues, and by how many tokens.
PROMPT = {"model": "houlsby", "prompt": "the cat sat on", "temperature": 0}
SHORT, LONG = 24, 3000
