"""Records of architectures, one file for each family. Each file has its records in RECORDS, by `model_type`."""
