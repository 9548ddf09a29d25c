"""Records of architectures, one file a family. Each file gives its records as RECORDS, by `model_type`."""
