"""What is known of each architecture, by its `model_type`, as data."""
