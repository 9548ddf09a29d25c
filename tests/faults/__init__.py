"""The campaign of faults (`make faults`): what happens to outputs and answers when things go wrong around them.

Each part makes trials, each trial has a name of its own that tells its seed, and a trial that was made is not made
again: an interrupted campaign continues. The whole of it writes docs/reliability.md.
"""
