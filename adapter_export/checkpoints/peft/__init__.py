"""PEFT's format: the parts that its methods share, and a module for each method (`codec.PeftCodec`)."""
