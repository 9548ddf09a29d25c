"""Programs that come with a checkpoint or a bundle, run under limits: regular expressions and chat templates."""
