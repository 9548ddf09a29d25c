from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.models.base_model import BaseModel
from adapter_export.models.heads import load_head, read_head, to_numpy
from adapter_export.models.injection import Injection, inject
from adapter_export.sites import Port, Site

TinyBase = Callable[..., BaseModel]
RandomAdapter = Callable[..., Adapter]
InputsFor = Callable[..., dict[str, np.ndarray]]


def run(base: BaseModel, inputs: dict[str, np.ndarray]) -> Any:
    import torch

    with torch.no_grad():
        return base.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0]


class TestInjection:
    def test_disabled_blocks_may_be_nested(
        self, tiny_base: TinyBase, random_adapter: RandomAdapter, inputs_for: InputsFor
    ) -> None:
        import torch

        base, inputs = tiny_base("bert"), inputs_for("bert")
        off = run(base, inputs)
        injection = inject(base.module, random_adapter(base.info, "ia3"))
        with injection.disabled():
            with injection.disabled():
                pass
            assert torch.equal(run(base, inputs), off)
        assert not torch.equal(run(base, inputs), off)

    def test_one_adapter_at_a_time(self, tiny_base: TinyBase, random_adapter: RandomAdapter) -> None:
        base = tiny_base("bert")
        adapter = random_adapter(base.info, "ia3")
        injection = inject(base.module, adapter)
        with pytest.raises(InputError, match="already holds an adapter"):
            inject(base.module, adapter)
        injection.remove()
        inject(base.module, adapter)

    def test_blocks_read_back_are_copies_of_the_parameters(
        self, tiny_base: TinyBase, random_adapter: RandomAdapter
    ) -> None:
        base = tiny_base("bert")
        adapter = random_adapter(base.info, "bottleneck")
        injection = inject(base.module, adapter)
        sites = injection.site_adapters()
        injection.parameters[next(iter(sites))]["up"].data.zero_()
        for site, site_adapter in adapter.sites.items():
            assert sites[site].operator == site_adapter.operator
            for name, tensor in site_adapter.tensors.items():
                np.testing.assert_array_equal(sites[site].tensors[name], tensor)

    def test_parameters_follow_the_model_and_leave_its_names_alone(
        self, tiny_base: TinyBase, random_adapter: RandomAdapter
    ) -> None:
        import torch

        base = tiny_base("bert", dtype=torch.float64)
        names = set(base.module.state_dict())
        injection = inject(base.module, random_adapter(base.info, "ia3"))
        ours = set(base.module.state_dict()) - names
        assert len(ours) == len(injection.parameters)
        assert all(name.startswith("adapter_sites.") for name in ours)
        assert names < set(base.module.state_dict())
        assert {p.dtype for d in injection.parameters.values() for p in d.values()} == {torch.float64}
        base.module.half()
        assert {p.dtype for d in injection.parameters.values() for p in d.values()} == {torch.float16}
        injection.remove()
        assert set(base.module.state_dict()) == names

    def test_a_module_without_a_tensor_to_adapt_is_refused(self, tiny_base: TinyBase, inputs_for: InputsFor) -> None:
        base = tiny_base("bert")
        site_adapter = SiteAdapter(IA3Operator(), {"l": np.ones(32, np.float32)})
        Injection(base.module, {Site("encoder", Port.OUTPUT): site_adapter})
        with pytest.raises(InputError, match="module 'encoder': expected one that returns a tensor, found BaseModel"):
            run(base, inputs_for("bert"))

    def test_the_first_of_several_outputs_is_adapted(self, tiny_base: TinyBase, inputs_for: InputsFor) -> None:
        base = tiny_base("gpt2")
        site_adapter = SiteAdapter(IA3Operator(), {"l": np.zeros(32, np.float32)})
        seen: list[Any] = []
        Injection(base.module, {Site("h.0.attn", Port.OUTPUT): site_adapter})
        base.module.get_submodule("h.0.attn").register_forward_hook(lambda _, __, output: seen.append(output))
        run(base, inputs_for("gpt2"))
        assert isinstance(seen[0], tuple)
        assert seen[0][0].abs().max() == 0

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_reading_a_tensor(self, dtype: str) -> None:
        import torch

        tensor = torch.tensor([1.5, -2.0], dtype=getattr(torch, dtype), requires_grad=True)
        array = to_numpy(tensor)
        assert array.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert array.tolist() == [1.5, -2.0]


# model type -> the layers of its head, first to last.
HEADS = {
    "bert": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "llama": ("score",),
}


class TestHeads:
    @pytest.mark.parametrize("model_type", HEADS)
    def test_a_head_of_another_size_moves_in(
        self, model_type: str, tiny_base: TinyBase, random_adapter: RandomAdapter, inputs_for: InputsFor
    ) -> None:
        labels = ("a", "b", "c", "d", "e")
        base = tiny_base(model_type, "text-classification")
        adapter = random_adapter(base.info, "ia3", labels=labels)
        inject(base.module, adapter)
        assert run(base, inputs_for(model_type)).shape == (3, 5)
        assert base.module.config.id2label == dict(enumerate(labels))
        assert base.module.config.label2id == {label: i for i, label in enumerate(labels)}
        assert base.module.config.num_labels == base.module.num_labels == 5
        assert base.module.get_submodule(HEADS[model_type][-1]).out_features == 5
        found = read_head(base.module, HEADS[model_type])
        assert list(found) == list(adapter.head)
        for name, layer in adapter.head.items():
            np.testing.assert_array_equal(found[name].weight, layer.weight)
            np.testing.assert_array_equal(found[name].bias, layer.bias)

    def test_logits_come_from_the_adapters_head(
        self, tiny_base: TinyBase, random_adapter: RandomAdapter, inputs_for: InputsFor
    ) -> None:
        base = tiny_base("bert", "text-classification")
        head = {"classifier": HeadLayer(np.zeros((2, 32), np.float32), np.array([1.0, -1.0], np.float32))}
        inject(base.module, replace(random_adapter(base.info, "ia3"), head=head))
        assert run(base, inputs_for("bert")).tolist() == [[1.0, -1.0]] * 3

    def test_a_head_without_bias_clears_the_models(
        self, tiny_base: TinyBase, random_adapter: RandomAdapter, inputs_for: InputsFor
    ) -> None:
        base = tiny_base("bert", "text-classification")
        head = {"classifier": HeadLayer(np.zeros((2, 32), np.float32), None)}
        inject(base.module, replace(random_adapter(base.info, "ia3"), head=head))
        assert run(base, inputs_for("bert")).abs().max() == 0

    @pytest.mark.parametrize(
        ("model_type", "head", "message"),
        [
            ("bert", {"score": HeadLayer(np.ones((2, 32)), None)},
             "task head 'score': BertForSequenceClassification has no such module"),
            ("bert", {"classifier": HeadLayer(np.ones((2, 16)), None)},
             "task head 'classifier': expected 32 inputs for this base model, found 16"),
            ("distilbert", {"pre_classifier": HeadLayer(np.ones((16, 32)), None),
                            "classifier": HeadLayer(np.ones((2, 32)), None)},
             "task head 'pre_classifier': expected 32 outputs for this base model, found 16"),
            ("llama", {"score": HeadLayer(np.ones((2, 32)), np.ones(2))},
             "task head 'score': has a bias, but the model's layer has none"),
        ],
    )  # fmt: skip
    def test_heads_that_do_not_fit(
        self, model_type: str, head: dict[str, HeadLayer], message: str, tiny_base: TinyBase
    ) -> None:
        base = tiny_base(model_type, "text-classification")
        with pytest.raises(InputError, match=message):
            load_head(base.module, Adapter("ia3", {}, head))

    def test_a_repeated_output_layer_of_a_language_model_must_be_its_own(self, tiny_base: TinyBase) -> None:
        base = tiny_base("gpt2", "causal-lm")
        own = to_numpy(base.module.lm_head.weight)
        load_head(base.module, Adapter("ia3", {}, {"lm_head": HeadLayer(own, None)}))
        with pytest.raises(InputError, match="task head 'lm_head': differs from the base model's own"):
            load_head(base.module, Adapter("ia3", {}, {"lm_head": HeadLayer(own * 2, None)}))
