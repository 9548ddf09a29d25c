"""The format of AdapterHub's library `adapters`: the parts that its methods share, and a module for each method
(`codec.HubCodec`).
"""
