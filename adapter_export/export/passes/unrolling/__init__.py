"""How a graph of a few traced layers becomes one of all layers."""
