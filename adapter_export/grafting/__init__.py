"""Puts adapters into finished graphs, which other tools made.

`dialects.py` says how a tool names the modules of a model. `modules.py` finds the modules of a graph by these names,
and `packed.py` those that share one linear layer. `verify.py` compares their weights with a model folder.
`insert_markers.py` puts markers at the sites of adapters, as a trace of our own has them, and the passes of `export`
lower the graph to a mode. `graft.py` writes the bundle.
"""
