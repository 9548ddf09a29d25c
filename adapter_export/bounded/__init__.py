"""Runs programs that come with a checkpoint or a bundle, with limits: regular expressions, chat templates,
tokenizers.
"""
