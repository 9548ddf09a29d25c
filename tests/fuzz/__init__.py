"""Every parser of ours, fed with damaged and invented input: `python -m tests.fuzz`, or `make fuzz`.

`targets` is the table of parsers, `mutators` changes input without breaking its outer form, `seeds` makes the corpus
from valid files, `corpus/TARGET/` holds it, and every input that a parser once failed on. `test_corpus` replays it.
"""
