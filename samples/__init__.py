"""Ready-to-run demonstrations, and the real models and data they use."""
