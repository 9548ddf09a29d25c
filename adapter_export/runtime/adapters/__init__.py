"""Adapters while a session is open: read from files, kept in memory, and fed to the runs that asked for them.

`source.py` reads them from a bundle, `pool.py` keeps them in memory by name (`bank.py` for bundles of mode bank), and a
`Lease` holds those of one run.
"""
