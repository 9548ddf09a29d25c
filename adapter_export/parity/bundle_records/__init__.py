"""What PyTorch computes for all cases of a bundle, in one file: `parity --record` writes it, and `parity --reference`
judges bundles by it, where there is neither PyTorch nor the model.

The records of `recording` are something else: they hold one adapter, and are written by the library that trained it.

Format of a bundle's record, version 1: a .npz archive with `meta`, a JSON text (`about.About`), and arrays with these
names:
    <case>/input/<name>                        An input of the model.
    <case>/prompt/<row>                        A prompt, for cases that generate.
    <case>/<adapter>/<state>/<kind>/<output>   An output of the model.
    <case>/<adapter>/new/<array>               For cases that generate: `tokens`, `choice`, `margin` and `scores` of
                                               `expected.ExpectedTokens`.
    check/<check>/<name>                       Inputs for the checks `swap` and `rows`.
    columns/<output>                           Numbers of the columns that are kept of a wide output.

case: a number. adapter: its name, or `-` for none.
state: `on` with the adapter, `off` without the adapter but with its task head.
kind: `exact` (R), `target` (T as PyTorch rounds it) or `rounded` (of 7 other roundings of T, the one furthest from R).

Of an output with more than 1,024 columns (the logits of a language model), 256 random columns are kept, the same ones
for all cases. Otherwise a record of a small language model would have several GB.
"""
