"""A method that is made up here, in one class and without a codec, goes all the way: what `methods/contract.py` says.

It asks for what the methods of the package do not: layers that are not square, tensors of different identity values,
the layer's own weight, and a changed bias.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from adapter_export import AdapterSession, add_adapter, check_parity, export_onnx, merge, train
from adapter_export.architectures.layers import Layer
from adapter_export.architectures.record import Role
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.own import write
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging import piecewise
from adapter_export.methods import registry
from adapter_export.methods.contract import IN, OUT, Operator, SiteAdapter, TensorSpec, setting
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.sites import Features, Port, Site
from tests.methods.test_contract import assert_equal, run_onnxruntime, run_reference

if TYPE_CHECKING:
    import torch

# Of float32 graphs and weights, relative to the size of the outputs.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class MixOperator:
    """out = y + ((s - 1) * u) W^T + u A B + c. Merged: W' = W diag(s) + (A B)^T, b' = b + c.

    Shapes: u (B, T, in), y (B, T, out), s (in,), A (in, k), B (k, out), c (out,), W (out, in). Identity: s = 1, the
    others 0.
    """

    method: ClassVar[str] = "mix"
    op_type: ClassVar[str] = "Mix"
    op_name: ClassVar[str] = "mix"
    reads: ClassVar[tuple[str, ...]] = ("u", "y", "weight")
    unbankable: ClassVar[str | None] = None
    specs: ClassVar[Mapping[str, TensorSpec]] = {
        "s": TensorSpec((IN,), 1.0),
        "a": TensorSpec((IN, "rank"), 0.0),
        "b": TensorSpec(("rank", OUT), 0.0),
        "c": TensorSpec((OUT,), 0.0),
    }
    body: ClassVar[str] = """
        one = Constant <value_float: float = 1.0> ()
        like = CastLike (one, s)
        more = Sub (s, like)
        scaled = Mul (u, more)
        transposed = Transpose <perm: ints = [1, 0]> (weight)
        through = MatMul (scaled, transposed)
        narrow = MatMul (u, a)
        wide = MatMul (narrow, b)
        both = Add (through, wide)
        added = Add (both, c)
        out = Add (y, added)
    """

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scaled = (values["u"] * (tensors["s"] - 1)) @ values["weight"].T
        return values["y"] + scaled + values["u"] @ tensors["a"] @ tensors["b"] + tensors["c"]

    def unmergeable(self, port: Port) -> str | None:
        return None if port is Port.BRANCH else "this method stands on branches only"

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        s, a, b, c = (tensors[name].astype(np.float64) for name in ("s", "a", "b", "c"))
        new = weight * s + (a @ b).T
        return new, (c if c.any() else None) if bias is None else bias + c


@dataclass(frozen=True)
class MixOptions:
    """rank: k."""

    rank: int = setting("N", "size between the two matrices", 2)


class Mix:
    """On queries, on fused projections, and on the feed-forward's first layer."""

    name: ClassVar[str] = "mix"
    checkpoint_format: ClassVar[str] = "adapter-export"
    operator_type: ClassVar[type[Any]] = MixOperator
    learning_rate: ClassVar[float] = 1e-2
    Options: ClassVar[type[Any]] = MixOptions

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        paths = [path for layer in layers for path in layer.linear(Role.QUERY, Role.UP)]
        return {Site(path, Port.BRANCH): MixOperator() for path in paths}

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        return {Site(path, Port.BRANCH): MixOperator() for path in modules}

    def initial(self, operator: Operator, features: Features, options: Any, rng: np.random.Generator) -> SiteAdapter:
        tensors = {
            name: np.full(spec.shape(features, options.rank), spec.identity, np.float32)
            for name, spec in operator.specs.items()
        }
        return SiteAdapter(operator, {**tensors, "a": rng.normal(0, 0.1, tensors["a"].shape).astype(np.float32)})


@pytest.fixture(scope="module", autouse=True)
def mix() -> Iterator[Mix]:
    registry.names()
    method = Mix()
    registry.register(method)
    yield method
    del registry._methods[method.name]


def test_its_forms_agree_on_layers_that_are_not_square() -> None:
    import torch

    rng = np.random.default_rng(0)
    operator, features = MixOperator(), Features(6, 10)
    values = {"u": rng.normal(size=(4, 3, 6)), "y": rng.normal(size=(4, 3, 10)), "weight": rng.normal(size=(10, 6))}
    tensors = {name: rng.normal(size=spec.shape(features, 3)) for name, spec in operator.specs.items()}
    as_torch = [{name: torch.from_numpy(value) for name, value in given.items()} for given in (values, tensors)]
    expected = operator.forward(*as_torch).numpy()
    np.testing.assert_allclose(run_reference(operator, {**values, **tensors}), expected, 1e-7, 1e-7)
    np.testing.assert_allclose(run_onnxruntime(operator, {**values, **tensors}), expected, rtol=2e-6, atol=2e-5)
    weight, bias = rng.normal(size=(10, 6)), rng.normal(size=10)
    y = values["u"] @ weight.T + bias
    changed = {name: torch.from_numpy(value) for name, value in {**values, "y": y, "weight": weight}.items()}
    new_weight, new_bias = operator.merge(Port.BRANCH, weight, bias, tensors)
    np.testing.assert_allclose(
        values["u"] @ new_weight.T + new_bias, operator.forward(changed, as_torch[1]).numpy(), rtol=0, atol=1e-12
    )


# Rectangular layers with biases; the same with weights as (in, out), and fused; layers that are applied twice.
@pytest.mark.parametrize(
    "model_type",
    ["gpt2", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("bert", "albert", "modernbert"))],
)
def test_every_mode_computes_what_pytorch_does(
    model_type: str,
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    # ModernBERT's layers have no biases.
    config = {"attention_bias": True, "mlp_bias": True} if model_type == "modernbert" else {}
    task = "text-classification"
    model = tiny_model(model_type, task, **config)
    info = load_base(model, task).info
    labels = ("a", "b", "c")
    adapters = {
        "mix": save_checkpoint(random_adapter(info, "mix", 1, labels=labels), info),
        "wider": save_checkpoint(random_adapter(info, "mix", 2, labels=labels, rank=4), info),
        "ia3": save_checkpoint(random_adapter(info, "ia3", 3, labels=labels), info),
    }
    for mode in ("merged", "embedded", "swappable", "bank"):
        chosen = adapters if mode in ("swappable", "bank") else {"mix": adapters["mix"]}
        export_onnx(model, chosen, tmp_path / mode, mode=mode, task=task)
        report = check_parity(tmp_path / mode, model, chosen)
        assert report.verdict is Verdict.PASS, (mode, report.checks, report.results)
    later = save_checkpoint(random_adapter(info, "mix", 4, labels=labels, rank=3), info)
    for mode in ("swappable", "bank"):
        add_adapter(tmp_path / mode, {"later": later})
        report = check_parity(tmp_path / mode, model, {**adapters, "later": later})
        assert report.verdict is Verdict.PASS, (mode, report.checks, report.results)


def test_rows_of_a_batch_have_their_own(
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    text_batch: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    model = tiny_model("bert")
    info = load_base(model, "features").info
    adapters = {
        name: save_checkpoint(random_adapter(info, method, seed), info)
        for seed, (name, method) in enumerate([("one", "mix"), ("ia3", "ia3"), ("two", "mix"), ("deep", "bottleneck")])
    }
    export_onnx(model, adapters, tmp_path / "bank", mode="bank", task="features")
    export_onnx(model, adapters, tmp_path / "swappable", mode="swappable", task="features")
    rows = [None, *adapters]
    inputs = text_batch(rows=len(rows), padding="none")
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    with AdapterSession(tmp_path / "bank") as bank, AdapterSession(tmp_path / "swappable") as swappable:
        found = bank.run(inputs, adapters=rows)["last_hidden_state"]
        for row, name in enumerate(rows):
            own = {key: value[row : row + 1] for key, value in inputs.items()}
            expected = swappable.run(own, adapter=name)["last_hidden_state"][0]
            assert np.abs(found[row] - expected).max() <= TOLERANCE * np.sqrt(np.square(expected).mean())


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "albert"])
@pytest.mark.parametrize("piece", [7, 64, 1 << 16])
def test_a_streamed_merge_in_small_pieces(
    model_type: str,
    piece: int,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    inputs_for: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(piecewise, "_PIECE", piece)
    base = tiny_base(model_type, dtype=torch.float64)
    adapter = random_adapter(base.info, "mix", 5)
    merge(base.folder, [save_checkpoint(adapter, base.info)], tmp_path / "merged")
    inputs = {name: torch.from_numpy(value) for name, value in inputs_for(model_type).items()}
    with torch.no_grad():
        merged = load_base(tmp_path / "merged", "features", dtype=torch.float64).module(**inputs).last_hidden_state
        before = base.module(**inputs).last_hidden_state
        inject(base.module, adapter)
        expected = base.module(**inputs).last_hidden_state
    scale = expected.square().mean().sqrt()
    assert (expected - before).abs().max() > 0.1 * scale
    assert (merged - expected).abs().max() <= TOLERANCE * scale


def test_a_merge_is_refused_where_a_layer_has_no_bias_for_it(
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base = tiny_base("llama")
    folder = save_checkpoint(random_adapter(base.info, "mix"), base.info)
    with pytest.raises(CannotMerge, match=r"site layers\.0\.self_attn\.q_proj: the layer has no bias to fold"):
        merge(base.folder, [folder], tmp_path / "merged")
    with pytest.raises(CannotMerge, match=r"site layers\.0\.self_attn\.q_proj: the layer has no bias to fold"):
        export_onnx(base.folder, {"mix": folder}, tmp_path / "bundle", mode="merged", task="features")
    assert not list(tmp_path.iterdir())


def test_a_convolution_is_refused(tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]) -> None:
    base = tiny_base("vit")
    adapter = random_adapter(base.info, "mix", target=r".*projection")
    inject(base.module, adapter)
    import torch

    with pytest.raises(InputError, match="expected a linear layer, whose weight the adapter reads, found Conv2d"):
        base.module(pixel_values=torch.zeros(1, 3, 32, 32))


def test_it_is_trained_saved_and_loaded(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model("bert")
    rows = "".join(f"{text},{label}\n" for text, label in (("red green", "yes"), ("blue", "no")) for _ in range(8))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    result = train(
        model,
        "mix",
        "text-classification",
        tmp_path / "data.csv",
        tmp_path / "trained",
        max_steps=3,
        batch_size=4,
        rank=3,
    )
    info = load_base(model, "text-classification", labels=("no", "yes")).info
    adapter = load_adapter(result.output, info)
    assert adapter.labels == ("no", "yes")
    assert adapter.parameters == result.parameters
    for site_adapter in adapter.sites.values():
        assert site_adapter.tensors["a"].shape[1] == 3
        for name, spec in MixOperator().specs.items():
            assert (site_adapter.tensors[name] != spec.identity).any(), name


class TestOwnFormat:
    """`checkpoints/own.py`, which keeps methods that no other library's format holds."""

    @pytest.fixture
    def saved(
        self,
        tiny_base: Callable[..., BaseModel],
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> tuple[Path, Adapter, BaseModel]:
        base = tiny_base("bert", "text-classification")
        adapter = random_adapter(base.info, "mix", labels=("no", "yes"))
        return save_checkpoint(adapter, base.info), adapter, base

    def test_what_is_written_is_read(self, saved: tuple[Path, Adapter, BaseModel], tmp_path: Path) -> None:
        folder, adapter, base = saved
        again = load_adapter(folder, base.info)
        assert_equal(again, adapter)
        assert again.source_format == "adapter-export"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a.update(format_version=2), "field 'format_version': expected 1, found 2"),
            (lambda a: a.update(format_version=True), "field 'format_version': expected 1, found True"),
            (lambda a: a.update(method="nope"), "method 'nope': expected one of bottleneck, ia3, lora, mix"),
            (lambda a: a.update(method="ia3"), "field 'method': 'ia3' is not kept in this format, but as peft"),
            (lambda a: a.update(method="bottleneck"), "'bottleneck' is not kept in this format, but as adapterhub"),
            (
                lambda a: a["blocks"][0]["site"].update(residual="x"),
                ".site.residual': the model has no module",
            ),
            (lambda a: a.update(blocks={}), "field 'blocks': expected list, found"),
            (lambda a: a["blocks"].append(3), "field 'blocks[4]': expected an object, found 3"),
            (
                lambda a: a["blocks"].append(a["blocks"][0]),
                "site 'encoder.layer.0.attention.self.query' is there",
            ),
            (lambda a: a["blocks"].pop(), "no block of adapter_config.json has it (4 in all)"),
            (
                lambda a: a["blocks"][0]["site"].update(port="top"),
                "field 'blocks[0].site.port': expected one of input",
            ),
            (lambda a: a["blocks"][0]["site"].update(more="x"), "field 'blocks[0].site.more' is not known"),
            (
                lambda a: a["blocks"][0]["site"].update(module=3),
                "field 'blocks[0].site.module': expected text, found",
            ),
            (lambda a: a["blocks"][0]["site"].pop("module"), "field 'blocks[0].site.module' is missing"),
            (lambda a: a["blocks"][0]["site"].update(module="x"), "module 'x' is not in the bert model"),
            (lambda a: a["blocks"][0]["operator"].update(x=1), "field 'blocks[0].operator.x' is not known"),
            (lambda a: a["blocks"][1]["site"].update(port="output"), "expected shape"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, saved: tuple[Path, Adapter, BaseModel], change: Callable[[dict[str, Any]], Any], message: str
    ) -> None:
        folder, _, base = saved
        config = json.loads((folder / "adapter_config.json").read_text())
        change(config["adapter_export"])
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(InputError) as error:
            load_adapter(folder, base.info)
        assert message in str(error.value)

    def test_an_operator_that_reads_what_its_site_does_not_offer(
        self, saved: tuple[Path, Adapter, BaseModel], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, _, base = saved
        monkeypatch.setattr(MixOperator, "reads", ("u", "y", "x", "weight"))
        with pytest.raises(InputError, match=r"field 'blocks\[0\]\.site\.residual' is missing, from which x is read"):
            load_adapter(folder, base.info)

    def test_two_sites_of_one_name_are_not_written_over_each_other(
        self, saved: tuple[Path, Adapter, BaseModel], tmp_path: Path
    ) -> None:
        _, adapter, base = saved
        site, site_adapter = next(iter(adapter.sites.items()))
        both = replace(adapter, sites={site: site_adapter, replace(site, port=Port.OUTPUT): site_adapter})
        with pytest.raises(InputError, match=f"site {site.name}: method 'mix' acts there twice"):
            write(tmp_path, both, base.info, "base")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.popitem(), "is missing"),
            (lambda t: t.update(more=np.ones(1, np.float32)), "tensor 'more': no block"),
            (lambda t: t.update({next(iter(t)): np.ones((2, 2, 2), np.float32)}), "expected shape"),
        ],
    )
    def test_what_is_wrong_with_a_tensor_is_named(
        self, saved: tuple[Path, Adapter, BaseModel], change: Callable[[dict[str, np.ndarray]], Any], message: str
    ) -> None:
        from safetensors.numpy import load_file, save_file

        folder, _, base = saved
        tensors = load_file(folder / "adapter.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter.safetensors")
        with pytest.raises(InputError) as error:
            load_adapter(folder, base.info)
        assert message in str(error.value)
