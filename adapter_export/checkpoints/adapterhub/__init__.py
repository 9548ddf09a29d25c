"""The format of AdapterHub's library `adapters`: what its methods share, and a module for each method
(`codec.HubCodec`).
"""
