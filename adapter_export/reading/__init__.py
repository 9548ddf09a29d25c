"""Reads files that come from elsewhere: below their folder, and regular files only.

A bundle, a checkpoint or a model folder may come from a stranger. A link in it must not make a command read, copy or
overwrite a file outside of the folder. A pipe or a device in it must not make a command wait or fill the memory.
"""
