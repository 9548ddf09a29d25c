"""Functions that pick the tensors of each row. Whole models with banks are in `test_architectures.py`."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from adapter_export.export.bank import _by_row
from adapter_export.export.function import Function
from adapter_export.naming import DOMAIN, DOMAIN_VERSION

OPSET, IR_VERSION = 20, 9
# out = y + u A + c, and the weight of the layer times u; in and out are of different sizes.
INNER = Function(
    "Inner",
    ("u", "y", "weight", "a", "c"),
    """transposed = Transpose <perm: ints = [1, 0]> (weight)  through = MatMul (u, transposed)
    mixed = MatMul (u, a)  first = Add (mixed, through)  second = Add (first, c)  out = Add (y, second)""",
)


@pytest.mark.parametrize("flat", [False, True])
def test_each_row_has_its_own_tensors_and_the_layers_weight_is_one_for_all(flat: bool) -> None:
    rng = np.random.default_rng(0)
    rows = np.array([2, 0, 1])
    u, y, weight = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 5, 6)), rng.normal(size=(6, 4))
    a, c = rng.normal(size=(3, 4, 6)), rng.normal(size=(3, 1, 6))
    expected = np.stack([y[i] + u[i] @ a[row] + u[i] @ weight.T + c[row] for i, row in enumerate(rows)])
    values = {"u": u.reshape(15, 4), "y": y.reshape(15, 6)} if flat else {"u": u, "y": y}
    feeds = {"rows": rows, **values, "weight": weight, "a_bank": a, "c_bank": c}
    feeds = {name: value if name == "rows" else value.astype(np.float32) for name, value in feeds.items()}
    outer = _by_row(INNER, ("a", "c"), flat)
    assert outer.arguments == tuple(feeds)
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
    inputs = [onnx.helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in feeds.items()]
    node = onnx.helper.make_node(outer.op_type, list(feeds), ["out"], domain=DOMAIN)
    outputs = [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "rows", inputs, outputs),
        functions=[onnx.parser.parse_function(function.text(OPSET)) for function in (INNER, outer)],
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)
    assert found.shape == ((15, 6) if flat else (3, 5, 6))
