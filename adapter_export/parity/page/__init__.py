"""The page of `parity --report`. Every number on it is one of the report."""
