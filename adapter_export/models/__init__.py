"""The PyTorch side: loads base models and tokenizers, and puts adapters and task heads into models.

`base_model.py: load_base` loads a model for a task, and `injection.py: inject` puts an adapter into it by hooks.
"""
