"""What every registered method promises (see `methods/contract.py`). A new method is found and held to it by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.architectures.layers import layers_of
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.composition import CompositionRule, composed
from adapter_export.errors import CannotMerge, InputError
from adapter_export.methods import registry
from adapter_export.methods.activations import ACTIVATIONS
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.methods.contract import Operator, strengthened
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.naming import DOMAIN, DOMAIN_VERSION
from adapter_export.sites import Features, Port

# One layer of BERT, enough for a placement.
LAYER = "encoder.layer.0"
MODULES = (
    LAYER,
    f"{LAYER}.attention.self.key",
    f"{LAYER}.attention.self.value",
    f"{LAYER}.attention",
    f"{LAYER}.attention.self.query",
    f"{LAYER}.attention.output.dense",
    f"{LAYER}.attention.output.LayerNorm",
    f"{LAYER}.intermediate",
    f"{LAYER}.intermediate.dense",
    f"{LAYER}.output.dense",
    f"{LAYER}.output.LayerNorm",
)
# Settings to try beside the defaults, by method. A method that is not listed is tried with its defaults.
VARIANTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "bottleneck": tuple(
        {"placement": placement, "activation": activation, "reduction_factor": 4}
        for placement in ("houlsby", "pfeiffer", "parallel")
        for activation in ACTIVATIONS
    ),
}
# Operators that no settings give, only checkpoints: every kind of norm and residual.
OF_CHECKPOINTS: Mapping[str, tuple[Operator, ...]] = {
    "bottleneck": (
        BottleneckOperator("relu", norm_before=True),
        BottleneckOperator("relu", norm_after=True),
        BottleneckOperator("gelu", norm_before=True, norm_after=True, within=("h",), plus=()),
        BottleneckOperator("tanh", source=("n",), within=("y", "x"), plus=("h",), norm_after=True),
        BottleneckOperator("tanh", source=("y", "x"), plus=("h", "-x", "n")),
        BottleneckOperator("tanh", within=("x",), plus=("-x",), norm_after=True),
        BottleneckOperator("relu", source=("x",), plus=("y", "y", "-x")),
    ),
}
# ONNX keeps a node's float settings (the slope of LeakyRelu, a sixth in HardSwish) in single precision, so float64 runs
# agree to that only, relative and absolute.
REFERENCE_TOLERANCE = 1e-7
# Features at a site, and values standing in for a symbolic dim.
FEATURES, WIDTHS = 8, (1, 5)
# As in graphs: the first opset with Gelu, and its IR version.
OPSET, IR_VERSION = 20, 9


@dataclass(frozen=True)
class Case:
    """One operator, its method and the settings that chose it; None for one that only checkpoints have."""

    method: str
    settings: dict[str, Any] | None
    operator: Operator

    def __str__(self) -> str:
        placement = (self.settings or {}).get("placement")
        return f"{self.operator.op_name}-{placement}" if placement else self.operator.op_name


def cases() -> list[Case]:
    found = []
    for name in registry.names():
        for settings in ({}, *VARIANTS.get(name, ())):
            options = registry.get(name).Options(**settings)
            operators = set(registry.get(name).place(layers_of("bert", MODULES), options).values())
            # A placement of one's own does not tell where a sublayer's residual is.
            if settings.get("placement") != "parallel":
                operators |= set(registry.get(name).place_at([f"{LAYER}.output.dense"], options).values())
            found += [Case(name, settings, operator) for operator in sorted(operators, key=str)]
        found += [Case(name, None, operator) for operator in OF_CHECKPOINTS.get(name, ())]
    return list({str(case): case for case in found}.values())


CASES = cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_case_of_settings = pytest.mark.parametrize("case", [case for case in CASES if case.settings is not None], ids=str)
every_method = pytest.mark.parametrize("method", registry.names())


def shapes(operator: Operator, width: int) -> dict[str, tuple[int, ...]]:
    """The operator's tensors with every symbolic dim taken as `width`."""
    return {name: spec.shape(Features(FEATURES, FEATURES), width) for name, spec in operator.specs.items()}


def random_tensors(operator: Operator, width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random in every tensor, but for the one that switches the operator on."""
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes(operator, width).items()}
    return {name: np.ones_like(tensor) if name == "active" else tensor for name, tensor in tensors.items()}


def random_values(operator: Operator, rng: np.random.Generator, rows: int = 2) -> dict[str, np.ndarray]:
    """What the operator reads, and y, which it replaces."""
    return {name: rng.standard_normal((rows, 3, FEATURES)) for name in dict.fromkeys((*operator.reads, "y"))}


def forward(
    operator: Operator,
    values: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
    dtype: str = "float64",
) -> np.ndarray:
    import torch

    def as_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array.astype(dtype)) for name, array in arrays.items()}

    result: np.ndarray = operator.forward(as_torch(values), as_torch(tensors)).numpy()
    return result


def read_by(operator: Operator, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[name] for name in operator.reads}


def function_of(operator: Operator, arguments: Iterable[str]) -> Any:
    """The operator's body as an ONNX function, as exported graphs hold it."""
    from onnx import parser

    return parser.parse_function(
        f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}"> {operator.op_type} '
        f"({', '.join(arguments)}) => (out) {{ {operator.body} }}"
    )


def one_node_model(operator: Operator, arrays: Mapping[str, np.ndarray]) -> Any:
    """An ONNX model that only calls the operator's function, on inputs typed as `arrays`."""
    import onnx
    from onnx import helper

    def value(name: str, like: np.ndarray) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(like.dtype), like.shape)

    node = helper.make_node(operator.op_type, list(arrays), ["out"], domain=DOMAIN)
    inputs = [value(name, array) for name, array in arrays.items()]
    model = helper.make_model(
        helper.make_graph([node], "one_node", inputs, [value("out", arrays[operator.reads[0]])]),
        functions=[function_of(operator, arrays)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


def run_reference(operator: Operator, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class Gelu(OpRun):
        """onnx has no reference of its own for this one; the formulas of its documentation."""

        op_domain = ""

        def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
            if approximate == "tanh":
                return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
            return (0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),)

    (out,) = ReferenceEvaluator(function_of(operator, arrays), new_ops=[Gelu]).run(None, dict(arrays), attributes={})
    return np.asarray(out)


def run_onnxruntime(operator: Operator, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    feeds = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = one_node_model(operator, feeds).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, feeds)
    return np.asarray(out)


def with_batch_axis(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors stacked per row: matrices are [B, m, n] already, vectors [B, n] become [B, 1, n]."""
    return {name: tensor[:, None, :] if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}


class TestOperators:
    @every_case
    @pytest.mark.parametrize("width", WIDTHS)
    def test_identity_values_give_y_exactly(self, case: Case, width: int) -> None:
        values = random_values(case.operator, np.random.default_rng(0))
        specs = case.operator.specs
        identity = {name: np.full(shape, specs[name].identity) for name, shape in shapes(case.operator, width).items()}
        assert np.array_equal(forward(case.operator, values, identity, "float32"), values["y"].astype(np.float32))

    @every_case
    def test_random_values_do_not(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        values = random_values(case.operator, rng)
        out = forward(case.operator, values, random_tensors(case.operator, 5, rng))
        assert np.abs(out - values["y"]).min(axis=(1, 2)).max() > 1e-4

    @every_case_of_settings
    def test_a_fresh_adapter_is_the_identity_and_shaped_as_specified(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        method = registry.get(case.method)
        tensors = method.initial(
            case.operator, Features(FEATURES, FEATURES), method.Options(**(case.settings or {})), rng
        ).tensors

        specs = case.operator.specs
        assert list(tensors) == list(specs)
        symbols: dict[str, int] = {}
        for name, tensor in tensors.items():
            assert tensor.dtype == np.float32
            dims = specs[name].at(Features(FEATURES, FEATURES))
            for size, dim in zip(tensor.shape, dims, strict=True):
                assert size == (dim if isinstance(dim, int) else symbols.setdefault(dim, size)), name
        values = random_values(case.operator, rng)
        assert np.array_equal(forward(case.operator, values, tensors), values["y"])

    @every_case
    @pytest.mark.parametrize("width", WIDTHS)
    def test_pytorch_and_onnx_compute_the_same(self, case: Case, width: int) -> None:
        rng = np.random.default_rng(width)
        values = random_values(case.operator, rng, rows=4)
        tensors = random_tensors(case.operator, width, rng)
        expected = forward(case.operator, values, tensors)
        arrays = {**read_by(case.operator, values), **tensors}
        np.testing.assert_allclose(
            run_reference(case.operator, arrays), expected, REFERENCE_TOLERANCE, REFERENCE_TOLERANCE
        )
        np.testing.assert_allclose(run_onnxruntime(case.operator, arrays), expected, rtol=2e-6, atol=2e-5)

    @every_case
    def test_each_row_may_have_tensors_of_its_own(self, case: Case) -> None:
        rng = np.random.default_rng(2)
        rows = 4
        values = random_values(case.operator, rng, rows)
        each = [random_tensors(case.operator, 5, rng) for _ in range(rows)]
        expected = np.stack(
            [forward(case.operator, {name: v[i] for name, v in values.items()}, each[i]) for i in range(rows)]
        )
        stacked = {name: np.stack([tensors[name] for tensors in each]) for name in each[0]}
        arrays = {**read_by(case.operator, values), **with_batch_axis(stacked)}
        np.testing.assert_allclose(
            run_reference(case.operator, arrays), expected, REFERENCE_TOLERANCE, REFERENCE_TOLERANCE
        )
        np.testing.assert_allclose(run_onnxruntime(case.operator, arrays), expected, rtol=2e-6, atol=2e-5)

    def test_names_are_unique_and_safe_in_graphs(self) -> None:
        operators = {case.operator for case in CASES}
        assert len({operator.op_type for operator in operators}) == len(operators)
        assert len({operator.op_name for operator in operators}) == len(operators)
        for operator in operators:
            assert operator.op_type.isidentifier()
            assert operator.op_name.isidentifier()
            assert not {"u", "y", "x", "h", "n", "out"} & set(operator.specs)

    @every_case_of_settings
    def test_an_operator_is_a_value_and_knows_its_method(self, case: Case) -> None:
        method = registry.get(case.method)
        again = set(method.place(layers_of("bert", MODULES), method.Options(**(case.settings or {}))).values())
        assert again == {case.operator}
        assert case.operator.method == case.method

    @every_case
    @pytest.mark.parametrize("port", list(Port))
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_merging_is_exact_or_refused_with_the_reason(self, case: Case, port: Port, with_bias: bool) -> None:
        rng = np.random.default_rng(3)
        tensors = random_tensors(case.operator, 5, rng)
        x = rng.standard_normal((2, 3, FEATURES))
        weight, bias = rng.standard_normal((FEATURES, FEATURES)), rng.standard_normal(FEATURES) if with_bias else None
        before = weight.copy(), None if bias is None else bias.copy()
        shift = 0.0 if bias is None else bias
        refusal = ""
        try:
            new_weight, new_bias = case.operator.merge(port, weight, bias, tensors)
        except CannotMerge as error:
            refusal = str(error)
        if refusal or port is Port.NORM:  # before a norm there is no linear layer to merge into
            assert len(refusal.split()) > 5, "a refusal gives its reason"
            return
        y = x @ weight.T + shift
        if port is not Port.INPUT:
            expected = forward(case.operator, {"u": x if port is Port.BRANCH else y, "y": y}, tensors)
        else:
            expected = forward(case.operator, {"u": x, "y": x}, tensors) @ weight.T + shift
        # A rule may need a bias that the layer has not, and give one; it never drops one.
        assert new_bias is not None or bias is None
        merged = x @ new_weight.T + (0.0 if new_bias is None else new_bias)
        np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(weight, before[0])
        if bias is not None:
            np.testing.assert_array_equal(bias, before[1])

    @every_case
    def test_composing_adds_or_multiplies_the_effects_or_has_no_rule(self, case: Case) -> None:
        """Out = y + sum of s (out_i - y), or y times the product of (out_i / y)^s."""
        rng, specs = np.random.default_rng(4), case.operator.specs
        rules = {spec.composition for spec in specs.values()}
        strengths = (0.7, -1.5, 2.0)
        tensors = [random_tensors(case.operator, width, rng) for width in (1, 5, 2)]
        if None in rules:
            assert rules == {None}, "a rule for some of the tensors is a rule for none"
            with pytest.raises(InputError, match=rf"strength 0\.5: {case.operator.op_type} has no rule for its tensor"):
                strengthened(case.operator, tensors[0], 0.5)
            return
        multiplies = rules == {CompositionRule.MULTIPLIED}
        if multiplies:  # there are no powers of negative numbers
            tensors = [{name: np.abs(array) for name, array in one.items()} for one in tensors]
        values = random_values(case.operator, rng)
        y, single = values["y"], [forward(case.operator, values, one) for one in tensors]
        together = {
            name: composed(
                [one[name] for one in tensors],
                strengths,
                spec.composition,
                spec.at(Features(FEATURES, FEATURES)),
                spec.identity,
            )
            for name, spec in specs.items()
            if spec.composition is not None
        }
        if multiplies:
            expected = y * np.prod([(out / y) ** s for out, s in zip(single, strengths, strict=True)], axis=0)
        else:
            expected = y + sum(s * (out - y) for out, s in zip(single, strengths, strict=True))
        actual = forward(case.operator, values, together)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
        for strength in (0.0, 0.5, 1.0):
            alone = forward(case.operator, values, strengthened(case.operator, tensors[0], strength))
            wanted = y * (single[0] / y) ** strength if multiplies else y + strength * (single[0] - y)
            np.testing.assert_allclose(alone, wanted, rtol=1e-10, atol=1e-10)


def one_case_per_settings() -> list[Case]:
    return list(
        {json.dumps([case.method, case.settings]): case for case in CASES if case.settings is not None}.values()
    )


every_setting = pytest.mark.parametrize("case", one_case_per_settings(), ids=str)


class TestAdapters:
    @every_setting
    def test_only_the_adapter_trains(
        self,
        case: Case,
        tiny_base: Callable[..., BaseModel],
        random_adapter: Callable[..., Adapter],
        inputs_for: Callable[..., dict[str, np.ndarray]],
    ) -> None:
        import torch

        base = tiny_base("bert")
        injection = inject(base.module, random_adapter(base.info, case.method, **case.settings))
        inputs = {name: torch.from_numpy(array) for name, array in inputs_for("bert").items()}
        base.module(**inputs).last_hidden_state.square().sum().backward()

        ours = {id(p): f"{s.name}.{n}" for s, dict_ in injection.parameters.items() for n, p in dict_.items()}
        for name, parameter in base.module.named_parameters():
            if id(parameter) not in ours:
                assert parameter.grad is None, name
            else:
                assert parameter.grad is not None, ours[id(parameter)]
                assert parameter.grad.abs().max() > 0, ours[id(parameter)]
        assert len(ours) == len([p for p in base.module.parameters() if p.requires_grad]) > 0

    @every_setting
    def test_saving_and_loading_is_exact(
        self,
        case: Case,
        tiny_info: Callable[..., ModelInfo],
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        info = tiny_info("bert", "text-classification")
        adapter = random_adapter(info, case.method, labels=("no", "yes"), **case.settings)
        again = load_adapter(save_checkpoint(adapter, info), info)
        assert_equal(again, adapter)
        assert again.base_sha256 == info.sha256

    @every_method
    def test_a_custom_placement_survives_saving(
        self,
        method: str,
        tiny_info: Callable[..., ModelInfo],
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        info = tiny_info("bert")
        for target in (
            r"encoder\.layer\.1\.output\.dense",
            r".*\.attention\.self\.query",
            r"encoder\.layer\.(0\.output|1\.attention\.output)\.dense",
            r".*\.(query|intermediate\.dense|output\.dense)",
        ):
            adapter = random_adapter(info, method, target=target)
            assert_equal(load_adapter(save_checkpoint(adapter, info), info), adapter)

    @every_method
    def test_saving_twice_gives_the_same_bytes(
        self,
        method: str,
        tiny_info: Callable[..., ModelInfo],
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        info = tiny_info("bert", "text-classification")
        first = save_checkpoint(random_adapter(info, method, labels=("no", "yes")), info)
        second = save_checkpoint(load_adapter(first, info), info)
        for file in first.iterdir():
            assert file.read_bytes() == (second / file.name).read_bytes(), file.name

    @every_method
    def test_taking_an_adapter_out_leaves_the_model_as_it_was(
        self,
        method: str,
        tiny_base: Callable[..., BaseModel],
        random_adapter: Callable[..., Adapter],
        inputs_for: Callable[..., dict[str, np.ndarray]],
    ) -> None:
        import torch

        base = tiny_base("bert")
        inputs = {name: torch.from_numpy(array) for name, array in inputs_for("bert").items()}
        with torch.no_grad():
            before = base.module(**inputs).last_hidden_state
            injection = inject(base.module, random_adapter(base.info, method))
            on = base.module(**inputs).last_hidden_state
            with injection.disabled():
                off = base.module(**inputs).last_hidden_state
            injection.remove()
            after = base.module(**inputs).last_hidden_state
        assert (on - before).abs().max() > 0.1
        assert torch.equal(off, before)
        assert torch.equal(after, before)


def assert_equal(found: Adapter, expected: Adapter) -> None:
    assert found.method == expected.method
    assert found.labels == expected.labels
    assert found.task == expected.task
    assert set(found.sites) == set(expected.sites)
    for site, site_adapter in expected.sites.items():
        assert found.sites[site].operator == site_adapter.operator
        assert found.sites[site].tensors.keys() == site_adapter.tensors.keys()
        for name, tensor in site_adapter.tensors.items():
            assert found.sites[site].tensors[name].dtype == tensor.dtype
            assert np.array_equal(found.sites[site].tensors[name], tensor), (site, name)
    assert list(found.head) == list(expected.head)
    for name, layer in expected.head.items():
        assert np.array_equal(found.head[name].weight, layer.weight)
        assert np.array_equal(found.head[name].bias, layer.bias)
