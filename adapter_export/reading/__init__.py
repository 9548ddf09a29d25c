"""How everything that comes from somewhere else is opened: below its folder, and regular files only.

A bundle, a checkpoint or a model folder may come from a stranger. A link in it must not make a command read, copy or
overwrite a file outside of it; a pipe or a device in it must not make a command wait or fill the memory.
"""
