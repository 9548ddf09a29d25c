"""Adapters on disk, in the formats of PEFT, AdapterHub and the project itself.

`folder.load_adapter` recognises the format and returns an `adapter.Adapter`; `folder.save_adapter` writes one. Each
method in a format is a module (`peft/ia3.py`), which is found by its name: see `codecs`.
"""
