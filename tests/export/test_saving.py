"""Graphs on disk, as files and in plain ONNX Runtime: what is stored, where, and how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from adapter_export.export import saving
from adapter_export.export.lower import Lowered
from adapter_export.export.saving import WEIGHTS, save_graph, save_graphs
from tests.bundles import Exported

TABLE = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
OTHER = np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32)
GRAPHS = {
    # The same table three times: twice in one graph, once of them in another shape; and in the other graph.
    "a.onnx": ("(int64[N] ids) => (float[N, 40] y)", "rows = Gather(table, ids) y = Gemm<transB=1>(rows, again)"),
    "b.onnx": ("(float[N, 40] x) => (float[N, 40] y)", "h = MatMul(x, table) y = MatMul(h, other)"),
}
TENSORS = {"a.onnx": {"table": TABLE, "again": TABLE.copy()}, "b.onnx": {"table": TABLE.copy(), "other": OTHER}}


@pytest.fixture
def graphs() -> dict[str, Lowered]:
    made = {}
    for file, (signature, body) in GRAPHS.items():
        text = f'<ir_version: 10, opset_import: ["": 20]> g {signature} {{ {body} }}'
        proto = onnx.parser.parse_model(text)
        for name, array in TENSORS[file].items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        made[file] = Lowered(ir.serde.deserialize_model(proto), {}, {}, ())
    return made


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph counts as large, and all but the smallest tensors."""
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE_BYTES", 0)
    monkeypatch.setattr(saving, "INLINE_UP_TO_BYTES", 1024)


def run(path: Path, value: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: value})[0])


def check_values(folder: Path) -> None:
    ids = np.array([3, 39, 0])
    np.testing.assert_allclose(run(folder / "a.onnx", ids), TABLE[ids] @ TABLE.T, rtol=1e-4, atol=1e-5)
    x = np.random.default_rng(2).standard_normal((3, 40)).astype(np.float32)
    np.testing.assert_allclose(run(folder / "b.onnx", x), x @ TABLE @ OTHER, rtol=1e-4, atol=1e-4)


def places(path: Path) -> dict[str, tuple[str, ...]]:
    """Of each tensor kept outside the graph: the file, the offset and the length."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in tensors if t.external_data}
    return {name: (entry["location"], entry["offset"], entry["length"]) for name, entry in entries.items()}


def test_small_graphs_are_one_file_each(graphs: dict[str, Lowered], tmp_path: Path) -> None:
    save_graphs(graphs, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(graphs)
    check_values(tmp_path)


@pytest.mark.usefixtures("large")
def test_large_graphs_share_one_file_with_equal_tensors_once(graphs: dict[str, Lowered], tmp_path: Path) -> None:
    save_graphs(graphs, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*graphs, WEIGHTS])
    a, b = places(tmp_path / "a.onnx"), places(tmp_path / "b.onnx")
    assert a["table"] == a["again"] == b["table"] != b["other"]
    assert (tmp_path / WEIGHTS).stat().st_size == TABLE.nbytes + OTHER.nbytes
    check_values(tmp_path)


@pytest.mark.usefixtures("large")
def test_saving_leaves_the_graphs_as_they_are(graphs: dict[str, Lowered], tmp_path: Path) -> None:
    save_graphs(graphs, tmp_path)
    for file, tensors in TENSORS.items():
        for name, array in tensors.items():
            tensor = graphs[file].model.graph.initializers[name].const_value
            assert not isinstance(tensor, ir.ExternalTensor)
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_graphs_count_together(graphs: dict[str, Lowered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either graph alone is below the limit; as files of their own they would hold the table in each."""
    monkeypatch.setattr(saving, "INLINE_UP_TO_BYTES", 0)
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE_BYTES", 2 * (TABLE.nbytes + OTHER.nbytes) - 1)
    save_graphs(graphs, tmp_path)
    assert (tmp_path / WEIGHTS).exists()


@pytest.mark.usefixtures("large")
def test_only_equal_dtypes_and_bytes_are_equal(tmp_path: Path) -> None:
    """Same bytes as numbers of another dtype, the same table transposed, a bit of difference: all stay apart."""
    import ml_dtypes

    square = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    near = square.copy()
    near[-1, -1] = np.nextafter(near[-1, -1], np.float32(9))
    narrow = square.astype(ml_dtypes.bfloat16)
    tensors = [square, square.view(np.int32), square.T, near, square.reshape(64, 16), narrow, narrow.view(np.int16)]
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g")
    for index, array in enumerate(tensors):
        value = ir.Value(name=f"t{index}", const_value=ir.tensor(array), shape=ir.Shape(array.shape))
        value.dtype = ir.DataType.from_numpy(array.dtype)
        graph.register_initializer(value)
    save_graph(Lowered(ir.Model(graph, ir_version=10), {}, {}, ()), tmp_path / "g.onnx")
    found = places(tmp_path / "g.onnx")
    assert found["t0"] == found["t4"]
    assert len(set(found.values())) == len(tensors) - 1
    loaded = ir.load(tmp_path / "g.onnx").graph.initializers
    for index, array in enumerate(tensors):
        stored = loaded[f"t{index}"].const_value
        assert stored is not None
        assert stored.tobytes() == array.tobytes()


@pytest.mark.usefixtures("large")
def test_adapter_defaults_stay_in_a_large_graph(tmp_path: Path, swappable_bundle: Exported) -> None:
    model = ir.load(swappable_bundle.bundle / "model.onnx")
    save_graph(Lowered(model, {}, {}, ()), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    external = set(places(tmp_path / "model.onnx"))
    assert external
    assert not external & {value.name for value in proto.graph.input}
    assert (tmp_path / "model.onnx.data").stat().st_size > sum(len(t.raw_data) for t in proto.graph.initializer)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
