"""What comes with a checkpoint or a bundle and runs, under limits: expressions, chat templates, tokenizers."""
