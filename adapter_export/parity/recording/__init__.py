"""What a trained adapter computes, by the library that trained it: PEFT, or AdapterHub's `adapters`.

Nothing here comes from the rest of the package: it is what the rest is held against, and it also runs without it. The
modules, in the order of `script.PARTS`, are one script (`adapter-export reference --script`) for the environment of
that library, which writes a record. Inside this package they are parity's witness for PEFT.

A record, format version 1: a .npz archive with `meta`, a JSON text, and arrays by these names:
    <case>/input/<name>             what the model was given
    <case>/<state>/<kind>/<output>  what it gave
state: `on` with the adapter, `off` without it but with its task head. kind: `exact` (float64), `float32`, `float16`,
`bfloat16`, `int8`; each of the lower ones also as `<kind>.rounded`: of 8 ways to round, the one furthest from exact.
"""
