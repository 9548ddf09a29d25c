"""Finds where a bundle departs from PyTorch, after a check has failed.

The values inside the graph and inside the PyTorch model are compared in the order of computation, for the smallest case
that failed. The entry is `locate` in `locate.py`.

Terms:

    place       A value that both sides have: the output of a module, the value before or after an adapter at its site,
                or an output of the model.
    to agree    A value agrees if its error is at most that which the judge allows for an output: e(O) <= 3 e(T) +
                floor, with T at the same place. Otherwise it departs.
    counterpart A value that PyTorch computes on the way and that equals a value of the graph, whatever its name is.
"""
