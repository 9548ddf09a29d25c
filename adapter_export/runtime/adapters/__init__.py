"""The adapters of an open session: read from files, kept in memory, and fed to runs.

`source.py` reads them from a bundle, `pool.py` keeps them in memory by name (`bank.py` for bundles of mode bank), and a
`Lease` holds those of one run.
"""
