"""Trains an adapter, and a task head where the task has one, on a frozen base model. The entry is `train.train`."""
