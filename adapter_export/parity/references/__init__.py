"""What a graph is compared with: outputs of the model in PyTorch, of a witness, or of a record.

A witness is another library that computes the adapter (PEFT itself); a record is a file that such a library wrote.
"""
