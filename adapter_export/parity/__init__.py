"""Checks that a bundle computes what the PyTorch model computes, with each of its adapters and without any.

The entry is `check_parity` in `run`. It runs a bundle in ONNX Runtime and the base model with the adapter checkpoints
in PyTorch, with the same inputs in many shapes, and compares the outputs. It returns a `report.ParityReport`: one
verdict per adapter, case and output, and one verdict per check of the bundle as a whole. For an adapter with a record
of its outputs, the record replaces PyTorch and the checkpoint; records are made by the scripts in `recording`. The
method, the thresholds and their calibration are described in `docs/parity.md`.

Symbols in all modules of this package:

    R     Reference: the outputs of PyTorch in float64, with the adapter unmerged.
    T     Target: the outputs of PyTorch at the graph's dtype. Its error against R is what the dtype can reach.
    O     The outputs of ONNX Runtime.
    on    With the adapter.
    off   Without the adapter's body. An adapter's task head stays in place both on and off.
    e(x)  The error of x against R, relative to the root mean square of R.

Terms:

    case      One shape of inputs: the batch size, the length and the padding, see `cases`.
    witness   Another library that computes the outputs of an adapter, independent of this project's reading of the
              checkpoint: PEFT, or AdapterHub's library by a record.
    record    A file with inputs and the outputs of a witness for them.
    border    A length of text from which on the model computes in another way, such as its sliding window.
"""
