"""What is known of each architecture, by its `model_type`, as data: one record each, in `families`.

The layers of a model are found with `layers.layers_of`; every other fact is read with `registry.facts`. No other
package names a `model_type`.
"""
