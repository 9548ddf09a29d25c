"""Computes the outputs of a trained adapter with the library that trained it: PEFT, or AdapterHub's `adapters`.

The modules import nothing from the rest of the package, so that the rest can be compared with them, and so that they
run without it. Joined in the order of `script.PARTS`, they are one script (`adapter-export reference --script`) that
runs in an environment of that library and writes a record. Within the package they are the witness for PEFT
checkpoints.

Format of a record, version 1: a .npz archive with `meta`, a JSON text, and arrays with these names:
    <case>/input/<name>             An input of the model.
    <case>/<state>/<kind>/<output>  An output of the model.

state: `on` with the adapter, `off` without the adapter but with its task head.
kind: `exact` (float64), `float32`, `float16`, `bfloat16` or `int8`. Each precision below float64 is stored a second
time as `<kind>.rounded`: of 8 different roundings, the output furthest from exact.
"""
