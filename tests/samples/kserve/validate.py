"""Validates documents by a schema of Kubernetes: {"schema", "documents"} on stdin -> for each document its errors, as
JSON.

As the API server does with strict validation, unknown fields are errors, which JSON Schema alone would ignore.
"""

import json
import sys

import jsonschema

_OPEN = ("additionalProperties", "x-kubernetes-preserve-unknown-fields")


def strict(node):
    """The schema, in which objects with known fields have no others."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: strict(value) for key, value in node.items()}
    if (
        isinstance(node.get("properties"), dict)
        and node.get("type") == "object"
        and not any(key in node for key in _OPEN)
    ):
        found["additionalProperties"] = False
    return found


given = json.load(sys.stdin)
validator = jsonschema.Draft202012Validator(strict(given["schema"]))
errors = [[f"{error.json_path}: {error.message}" for error in validator.iter_errors(one)] for one in given["documents"]]
json.dump(errors, sys.stdout)
