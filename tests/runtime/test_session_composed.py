"""Several adapters at once, each with a strength, against PEFT and PyTorch in float64."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export import AdapterSession, Composition, DynamicBatcher, InputError
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.methods.contract import SiteAdapter
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.runtime.adapters.choice import AdapterChoice
from tests.bundles import Exported
from tests.checkpoints.oracle import by_peft, run

# Of float32 graphs, relative to the largest output.
TOLERANCE = 2e-5
OUTPUT, WEIGHTS = "last_hidden_state", "adapter_model.safetensors"
# Name -> method, options. All tensors are random. The vectors of IA3 are positive, except those of `negative`.
ADAPTERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 3}),
    "lora_else": ("lora", {"rank": 5, "target": r".*(query|intermediate\.dense)"}),
    "ia3": ("ia3", {}),
    "ia3_too": ("ia3", {}),
    "negative": ("ia3", {}),
    "houlsby": ("bottleneck", {"reduction_factor": 8}),
    "pfeiffer": ("bottleneck", {"reduction_factor": 16, "placement": "pfeiffer"}),
}


def signed(adapter: Adapter, sign: float) -> Adapter:
    """The adapter with all numbers of one sign."""
    return replace(
        adapter,
        sites={
            site: SiteAdapter(one.operator, {name: sign * np.abs(tensor) for name, tensor in one.tensors.items()})
            for site, one in adapter.sites.items()
        },
    )


@pytest.fixture(scope="module")
def base(tiny_base: Callable[..., BaseModel]) -> BaseModel:
    import torch

    return tiny_base("bert", dtype=torch.float64)


@pytest.fixture(scope="module")
def bundles(
    base: BaseModel,
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    export: Callable[..., Exported],
    exported_once: Callable[..., Exported],
) -> dict[str, Exported]:
    """All of them, in modes swappable and bank."""
    folders = {}
    for seed, (name, (method, options)) in enumerate(ADAPTERS.items()):
        adapter = random_adapter(base.info, method, seed, **options)
        if method == "ia3":
            adapter = signed(adapter, -1 if name == "negative" else 1)
        folders[name] = save_checkpoint(adapter, base.info)
    return {
        mode: exported_once(f"composed-{mode}", lambda mode=mode: export(base.folder, folders, mode, task="features"))
        for mode in ("swappable", "bank")
    }


@pytest.fixture(scope="module")
def inputs(text_batch: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    batch = text_batch(rows=6, padding="none")
    return {**batch, "token_type_ids": np.zeros_like(batch["input_ids"])}


@pytest.fixture(scope="module")
def expected(
    bundles: dict[str, Exported], base: BaseModel, inputs: dict[str, np.ndarray], tmp_path_factory: Any
) -> dict[Composition, np.ndarray]:
    """What each of the compositions gives, in float64."""
    folders = bundles["swappable"].adapters
    bottlenecks = {name: load_adapter(folders[name], base.info) for name in ("houlsby", "pfeiffer")}
    lora = load_adapter(folders["lora"], base.info)
    powers = tmp_path_factory.mktemp("powers") / "ia3"
    multiply(folders["ia3"], folders["ia3_too"], powers)
    return {
        Composition.of({"lora": 0.7, "lora_else": -1.3}): added_by_peft(base, folders, inputs),
        Composition.of({"lora": 2.5}): by_peft(base, scaled(folders["lora"], 2.5, tmp_path_factory), inputs),
        Composition.of({"ia3": 0.7, "ia3_too": 2}): by_peft(base, powers, inputs),
        Composition.of({"houlsby": 0.5, "pfeiffer": 2}): injected(
            base, inputs, next_to_each_other(bottlenecks["houlsby"], 0.5, bottlenecks["pfeiffer"], 2)
        ),
        # Sites of the one are no sites of the other.
        Composition.of({"lora": 1, "houlsby": 1}): injected(
            base, inputs, replace(lora, sites={**lora.sites, **bottlenecks["houlsby"].sites})
        ),
    }


def added_by_peft(base: BaseModel, folders: Mapping[str, Path], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    import peft

    model = peft.PeftModel.from_pretrained(copy.deepcopy(base.module), folders["lora"], adapter_name="lora")
    model.load_adapter(folders["lora_else"], adapter_name="lora_else")
    model.add_weighted_adapter(["lora", "lora_else"], [0.7, -1.3], "both", combination_type="cat")
    model.set_adapter("both")
    return run(model.double().eval(), inputs)


def scaled(folder: Path, strength: float, tmp_path_factory: Any) -> Path:
    """The same LoRA with another alpha."""
    target: Path = tmp_path_factory.mktemp("scaled")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_alpha"] *= strength
    (target / "adapter_config.json").write_text(json.dumps(config))
    (target / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    return target


def multiply(first_folder: Path, second_folder: Path, target: Path) -> None:
    """Writes an IA3 checkpoint of PEFT with l = one^0.7 * other^2, in float64."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((first_folder / "adapter_config.json").read_bytes())
    first, second = load_file(first_folder / WEIGHTS), load_file(second_folder / WEIGHTS)
    save_file(
        {name: one.astype(np.float64) ** 0.7 * second[name].astype(np.float64) ** 2 for name, one in first.items()},
        target / WEIGHTS,
    )


def next_to_each_other(one: Adapter, strength: float, other: Adapter, other_strength: float) -> Adapter:
    """One wide bottleneck for the two: a hidden unit of either acts for itself."""
    sites = {}
    for site in {**one.sites, **other.sites}:
        parts = [
            (adapter.sites[site].tensors, s)
            for adapter, s in ((one, strength), (other, other_strength))
            if site in adapter.sites
        ]
        tensors = {
            "down": np.concatenate([tensors["down"] for tensors, _ in parts], axis=1),
            "down_bias": np.concatenate([tensors["down_bias"] for tensors, _ in parts]),
            "up": np.concatenate([tensors["up"] * s for tensors, s in parts]),
            "up_bias": np.sum([tensors["up_bias"] * s for tensors, s in parts], axis=0),
        }
        sites[site] = SiteAdapter(next(a.sites[site].operator for a in (one, other) if site in a.sites), tensors)
    return replace(one, sites=sites)


def injected(base: BaseModel, inputs: Mapping[str, np.ndarray], adapter: Adapter) -> np.ndarray:
    injection = inject(base.module, adapter)
    try:
        return run(base.module, inputs)
    finally:
        injection.remove()


def assert_close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(actual - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def strengths(key: Composition) -> dict[str, float]:
    return dict(key.parts)


def test_swapped(
    bundles: dict[str, Exported], inputs: dict[str, np.ndarray], expected: dict[Composition, np.ndarray]
) -> None:
    with AdapterSession(bundles["swappable"].bundle) as session:
        plain = session.run(inputs)[OUTPUT]
        for key, wanted in expected.items():
            assert_close(session.run(inputs, strengths(key))[OUTPUT], wanted)
            assert np.abs(plain - wanted).max() > 100 * TOLERANCE * np.abs(wanted).max()
        np.testing.assert_array_equal(session.run(inputs, {"lora": 0})[OUTPUT], plain)
        np.testing.assert_array_equal(session.run(inputs, {"lora": 1})[OUTPUT], session.run(inputs, "lora")[OUTPUT])


def test_one_row_each_in_a_bank(
    bundles: dict[str, Exported], inputs: dict[str, np.ndarray], expected: dict[Composition, np.ndarray]
) -> None:
    rows = [*map(strengths, expected), None]
    with AdapterSession(bundles["bank"].bundle, slots=len(expected)) as session:
        plain = session.run(inputs)[OUTPUT]
        found = session.run(inputs, adapters=rows)[OUTPUT]
        for row, wanted in enumerate([*expected.values(), plain]):
            assert_close(found[row], wanted[row])
        # Other adapters take the slots, and the compositions come back.
        session.run(inputs, adapters=["ia3", "houlsby", "pfeiffer", "lora", "negative", None])
        np.testing.assert_array_equal(session.run(inputs, adapters=rows)[OUTPUT], found)
        assert set(session.loaded) == set(ADAPTERS) - {"negative"}
        statistics = session.statistics()
        assert (statistics["lora"].rows, statistics["lora"].batches) == (7, 3)
        assert (statistics[None].rows, statistics[None].batches) == (9, 4)
        with DynamicBatcher(session) as batcher:
            own = [{name: value[row] for name, value in inputs.items()} for row in range(len(rows))]
            futures = [batcher.submit(one, key) for one, key in zip(own, rows, strict=True)]
            for row, wanted in enumerate([*expected.values(), plain]):
                assert_close(futures[row].result()[OUTPUT], wanted[row])


def test_a_batch_of_swapped_adapters_has_one_composition(
    bundles: dict[str, Exported], inputs: dict[str, np.ndarray]
) -> None:
    key = {"lora": 0.5, "lora_else": 2}
    row = {name: value[0] for name, value in inputs.items()}
    with AdapterSession(bundles["swappable"].bundle) as session, DynamicBatcher(session) as batcher:
        with pytest.raises(InputError, match=r"adapters 'lora=0\.5,lora_else=2', None: mode 'swappable' runs one"):
            session.run(inputs, adapters=[key, None, None, None, None, None])
        futures = [batcher.submit(row, key), batcher.submit(row), batcher.submit(row, {"lora_else": 2, "lora": 0.5})]
        wanted = session.run({name: value[:1] for name, value in inputs.items()}, key)[OUTPUT][0]
        for future in (futures[0], futures[2]):
            assert_close(future.result()[OUTPUT], wanted)
        assert np.abs(futures[1].result()[OUTPUT] - wanted).max() > 1e-2


@pytest.mark.parametrize("mode", ["swappable", "bank"])
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"ia3": 1, "lora": 1},
            r"adapters 'ia3' and 'lora': both change module '[\w.]+\.value', by ia3 and lora",
        ),
        ({"lora": 1, "nope": 1}, "adapter 'nope': expected one of lora, lora_else, ia3"),
        ({"negative": 0.5}, r"tensor '[\w.]+\.ia3\.l': strength 0\.5: the tensor has negative values"),
        ({"lora": 1e40}, r"adapters 'lora': tensor '[\w.]+\.lora\.b': composition: expected values within float32"),
    ],
)
def test_what_cannot_be_composed(
    mode: str, choice: dict[str, float], message: str, bundles: dict[str, Exported], inputs: dict[str, np.ndarray]
) -> None:
    with AdapterSession(bundles[mode].bundle) as session, DynamicBatcher(session) as batcher:
        before = session.run(inputs, "lora")[OUTPUT]
        with pytest.raises(InputError, match=message):
            session.run(inputs, choice)
        with pytest.raises(InputError, match=message):
            batcher.submit({name: value[0] for name, value in inputs.items()}, choice).result()
        np.testing.assert_array_equal(session.run(inputs, "lora")[OUTPUT], before)


@pytest.mark.parametrize("mode", ["swappable", "bank"])
def test_a_replaced_adapter_is_replaced_in_compositions(
    mode: str, bundles: dict[str, Exported], inputs: dict[str, np.ndarray]
) -> None:
    files = bundles[mode].bundle / "adapters"
    key = {"guest": 0.5, "houlsby": 1.0}
    with AdapterSession(bundles[mode].bundle) as session:
        session.load("guest", files / "lora.onnx_adapter")
        first = session.run(inputs, key)[OUTPUT]
        np.testing.assert_array_equal(first, session.run(inputs, {"lora": 0.5, "houlsby": 1})[OUTPUT])
        session.load("guest", files / "lora_else.onnx_adapter")
        second = session.run(inputs, key)[OUTPUT]
        np.testing.assert_array_equal(second, session.run(inputs, {"lora_else": 0.5, "houlsby": 1})[OUTPUT])
        assert np.abs(first - second).max() > 1e-2
        session.unload("guest")
        with pytest.raises(InputError, match="adapter 'guest'"):
            session.run(inputs, key)


class TestHeads:
    """The logits of a composition are those of one adapter's head, or of the base model's."""

    @pytest.mark.parametrize("bundle", ["swappable_bundle", "bank_bundle"])
    def test_one_is_chosen(
        self, bundle: str, request: pytest.FixtureRequest, text_batch: Callable[..., dict[str, np.ndarray]]
    ) -> None:
        batch = text_batch()
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
        key = {"houlsby_four": 0.7, "houlsby_two": 0.3}
        with AdapterSession(request.getfixturevalue(bundle).bundle) as session:
            for call in (lambda: session.run(batch, key), lambda: session.labels(key)):
                with pytest.raises(InputError, match="adapters houlsby_four, houlsby_two: each has a task head"):
                    call()
            four = session.run(batch, key, head="houlsby_four")["logits"]
            two = session.run(batch, key, head="houlsby_two")["logits"]
            assert (four.shape[1], two.shape[1]) == (4, 2)
            assert session.labels(key, head="houlsby_four") == ("north", "east", "south", "west")
            assert session.labels(Composition.of(key, head="houlsby_two")) == ("off", "on")
            assert session.problem_type(key, head="houlsby_two") == session.problem_type("houlsby_two")
            # With strength 0, an adapter gives its head alone.
            alone = session.run(batch, {"houlsby_four": 0, "houlsby_two": 1}, head="houlsby_two")["logits"]
            np.testing.assert_allclose(alone, session.run(batch, "houlsby_two")["logits"], atol=1e-6)
            with pytest.raises(InputError, match="head 'ia3_two': expected one of houlsby_four, houlsby_two"):
                session.run(batch, key, head="ia3_two")

    def test_rows_of_a_bank_have_their_own(
        self, bank_bundle: Exported, text_batch: Callable[..., dict[str, np.ndarray]]
    ) -> None:
        batch = text_batch(rows=3, padding="none")
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
        key = {"houlsby_four": 0.7, "houlsby_two": 0.3}
        rows: list[AdapterChoice] = [
            Composition.of(key, head="houlsby_two"),
            "ia3_three",
            Composition.of(key, head="houlsby_four"),
        ]
        with AdapterSession(bank_bundle.bundle) as session:
            found = [row["logits"] for row in session.run_rows(batch, rows)]
            assert [len(logits) for logits in found] == [2, 3, 4]
            for row, choice in enumerate(rows):
                own = session.run({name: value[row : row + 1] for name, value in batch.items()}, choice)["logits"][0]
                np.testing.assert_allclose(found[row], own, atol=1e-5)
            # `head` is that of the compositions, and of no other row.
            session.run(batch, adapters=[key, "ia3_three", None], head="houlsby_two")

    def test_the_base_models_own(
        self, headed_bundle: Exported, text_batch: Callable[..., dict[str, np.ndarray]]
    ) -> None:
        with AdapterSession(headed_bundle.bundle) as session:
            assert session.labels({"ia3": 2}) == session.labels("ia3")


@pytest.mark.parametrize("mode", ["swappable", "bank"])
def test_generating(mode: str, export_cached: Callable[..., Exported], logits_of: Callable[[Any], np.ndarray]) -> None:
    import torch

    exported = export_cached("llama", mode=mode)
    base = load_base(exported.base, "causal-lm", dtype=torch.float64)
    houlsby = load_adapter(exported.adapters["houlsby"], base.info)
    half = replace(houlsby, sites={site: replace(one, strength=0.5) for site, one in houlsby.sites.items()})
    prompt = [5, 9, 7, 11]
    with AdapterSession(exported.bundle) as session:
        generation = session.generate([prompt], {"houlsby": 0.5}, max_new_tokens=5)
        found = logits_of(generation)[0]
        (row,) = generation.completions()
    text = {"input_ids": np.array([[*prompt, *row.tokens[:-1]]])}
    assert_close(found, injected(base, text, half)[0, len(prompt) - 1 :])
