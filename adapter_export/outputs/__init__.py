"""Writes to disk. Outputs appear as a whole or not at all, one command writes at a time, and no file of others is
lost.
"""
