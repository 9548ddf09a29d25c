"""PEFT's format: what its methods share, and a module for each method (`codec.PeftCodec`)."""
