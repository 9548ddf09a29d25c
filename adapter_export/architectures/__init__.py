"""What the project knows about each architecture, by its `model_type`: one record each, in `families`.

The layers of a model are found with `layers.layers_of`. All other facts are read with `registry.facts`. No other
package names a `model_type`.
"""
