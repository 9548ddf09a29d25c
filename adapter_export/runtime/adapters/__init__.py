"""The adapters of an open session: read from files, kept in memory, and fed to runs.

`session_adapters.py` puts the parts together: `source.py` reads adapters from a bundle, `pool.py` keeps them in memory
by name (`bank.py` for bundles of mode bank), `composer.py` computes several at once, and a `Lease` holds those of one
run. What a caller chooses is described in `choice.py`.
"""
