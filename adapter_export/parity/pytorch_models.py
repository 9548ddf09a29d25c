"""The PyTorch side of a check: loads the base model and the adapters of a bundle, and runs all cases on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adapter_export import tasks
from adapter_export.architectures.registry import facts
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.export.samples import limited, max_sequence, position_table
from adapter_export.models.base_model import BaseModel, load_base, use_padding
from adapter_export.models.heads import complete_head
from adapter_export.parity.borders import borders_of
from adapter_export.parity.bundle_records.recorder import CaseRecorder
from adapter_export.parity.bundle_runner import BundleRunner
from adapter_export.parity.case_runner import CaseRunner
from adapter_export.parity.cases import BorderCase, ParityCase, TextLimits, cases_for, make_inputs
from adapter_export.parity.checks.agreement import check_agreement, check_base
from adapter_export.parity.checks.bundle import repeat_case
from adapter_export.parity.checks.generation import GreedyCaseRunner, greedy_case_runners
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.graph_weights import use_graph_weights
from adapter_export.parity.recording.few_bits import STEP, quantize_module
from adapter_export.parity.references.float64 import Float64Reference
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.references.witness import Witnesses, open_witnesses
from adapter_export.parity.report import ParityCheck
from adapter_export.parity.texts import text_inputs
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs
from adapter_export.runtime.generation.prepare import generates


class PyTorchModels:
    """The base model in PyTorch, in float64 and at the graph's dtype, with the adapters that have checkpoints.

    Attributes:
        folder: Folder of the base model.
        adapters: The adapters as our own code reads them, by name.
        own: Our own injection of the adapters, in float64.
        target: The same at the graph's dtype, with the graph's quantized weights if it has any.
        witnesses: The witnesses of the adapters.
        limits: Limits of the texts; None for a model without texts.
        cases: The cases to run; set by `attach`.
    """

    def __init__(
        self,
        model: Path,
        bundle: Path,
        manifest: Manifest,
        adapters: Mapping[str, str | Path],
        texts: Sequence[str] = (),
    ) -> None:
        """Loads the models.

        Args:
            model: Folder of the base model.
            bundle: Folder of the bundle.
            manifest: The manifest of the bundle.
            adapters: Checkpoint folders by adapter name.
            texts: Texts to judge besides random ones.

        Raises:
            InputError: A folder cannot be read, or does not belong to the bundle.
        """
        self.folder, self._manifest = model, manifest
        self._texts = text_inputs(bundle, manifest, texts)
        exact = _load(model, manifest, "float64")
        self.adapters = {name: _load_adapter(path, exact, manifest, name) for name, path in adapters.items()}
        asked = manifest.task if manifest.task_asked else None
        self.witnesses: Witnesses = open_witnesses(
            Path(model), {name: Path(path) for name, path in adapters.items()}, manifest.task, asked
        )
        self.own = Reference(exact)
        target = _load(model, manifest, manifest.dtype)
        for base in (exact, target):
            use_padding(base, self.adapters)
        pad = getattr(exact.module.config, "pad_token_id", None)
        if (plain := self.witnesses.base) is not None and pad is not None:
            # If the base model defines no padding id, it is that of the adapters. A classifier finds the end of a text
            # by it.
            plain.model.config.pad_token_id = pad
        self.target = _target(bundle, manifest, target)
        self._inputs = whole_model_inputs(manifest)
        self.limits = _text_limits(exact, self._inputs, manifest)
        self._shapes = cases_for(self._inputs, self.limits)

    def attach(self, runner: BundleRunner) -> None:
        """Sets the bundle to check. Must be called before `run`."""
        exact = Float64Reference(self.own, self.adapters, self.witnesses.subjects, whole_model_outputs(self._manifest))
        separate_rows = self._manifest.rotary_border is not None
        self._case_runner = CaseRunner(self._manifest, exact, self.target, runner, self.adapters, separate_rows)
        self._greedy: dict[ParityCase, GreedyCaseRunner] = {}
        if self.limits and generates(self._manifest):
            runners = greedy_case_runners(self._manifest, exact, self.target, runner, self.limits)
            self._greedy = {item.case: item for item in runners}
        self.cases: list[ParityCase] = [*self._shapes, *self._greedy, *self._texts]
        self._numbers = {case: number for number, case in enumerate(self.cases)}

    def run(
        self, case: ParityCase, draw: int = 0, roundings: int = 1, recorder: CaseRecorder | None = None
    ) -> dict[tuple[str, str], Measurement]:
        """Measures one case.

        Args:
            case: One of `cases`.
            draw: 0 for the first inputs of this shape, 1 and more for new inputs.
            roundings: Number of roundings in which T is computed.
            recorder: Keeps what PyTorch computes; None to keep nothing.

        Returns:
            Measurements by adapter and output.
        """
        seed = self._seed(case, draw)
        if (greedy := self._greedy.get(case)) is not None:
            prompts = greedy.prompts(seed)
            observer = recorder.begin_generation(case, prompts, roundings) if recorder else None
            return greedy.run(self.adapters, prompts, roundings, observer)
        inputs = self.inputs(case, draw)
        observer = recorder.begin(case, inputs, roundings) if recorder else None
        return self._case_runner.run(inputs, roundings, observer)

    def inputs(self, case: ParityCase, draw: int = 0) -> dict[str, np.ndarray]:
        """Returns the inputs of a case that generates nothing, by name.

        Args:
            case: One of `cases`.
            draw: 0 for the first inputs of this shape, 1 and more for new inputs.
        """
        if (given := self._texts.get(case)) is not None:
            return dict(given)
        return make_inputs(case, self._inputs, self.limits, self._seed(case, draw))

    def _seed(self, case: ParityCase, draw: int) -> int:
        return self._numbers[case] + draw * len(self._numbers)

    def repeat_inputs(self) -> dict[str, np.ndarray]:
        """Returns inputs of several rows, by name, which no case has. For checks of the bundle as a whole."""
        return make_inputs(repeat_case(self._shapes), self._inputs, self.limits, seed=len(self._shapes))

    def row_check_inputs(self) -> dict[str, np.ndarray]:
        """Returns inputs, by name, with rows of different lengths, for the check that rows do not affect each other.

        If the model has borders, the rows are on both sides of the last one.
        """
        crossing = [case for case in self._shapes if isinstance(case, BorderCase)]
        case = crossing[-1] if crossing else repeat_case(self._shapes)
        case = replace(case, padding="right") if case.padded else case
        return make_inputs(case, self._inputs, self.limits, seed=len(self._shapes))

    def checks(self) -> list[ParityCheck]:
        """Checks the base model and the adapters in PyTorch against their witnesses."""
        inputs = self.repeat_inputs()
        return [
            check_base(self.own, self.witnesses, inputs),
            check_agreement(self.own, self.adapters, self.witnesses, inputs),
        ]


def _load(model: str | Path, manifest: Manifest, dtype: str) -> BaseModel:
    import torch

    return load_base(model, manifest.task, dtype=getattr(torch, dtype))


def _load_adapter(path: str | Path, base: BaseModel, manifest: Manifest, name: str) -> Adapter:
    """Loads an adapter as the export does.

    The task head is complete, and absent if it is of another task. Class names that the user chose at export replace
    those of the checkpoint. The kind of problem (regression, one label, several labels) is set.
    """
    info = manifest.adapter(name)
    chosen_labels = info.labels if info.labels_given else None
    base_info = replace(base.info, labels=manifest.base.labels)
    adapter = load_adapter(path, base_info, task=manifest.task, labels=chosen_labels)
    adapter = _for_task(complete_head(base.module, manifest.base.head, adapter), manifest.task)
    return with_problem_type(adapter, base.module.config.to_dict())


def _target(bundle: Path, manifest: Manifest, base: BaseModel) -> Reference:
    """Returns the model that computes T: PyTorch at the graph's dtype, with quantized weights if the graph has them."""
    if not manifest.quantize.used:
        return Reference(base)
    if manifest.graft is not None:
        use_graph_weights(base.module, bundle, manifest)
        return Reference(base, step=STEP)
    quantize_module(base.module, manifest.quantize.bits, () if manifest.mode.in_graph else manifest.base.head)
    return Reference(base, step=STEP)


def _for_task(adapter: Adapter, task: str) -> Adapter:
    """Returns the adapter with the head that a graph of this task has.

    For tasks with labels it is the adapter's own head; for others at most a copy of `lm_head`.
    """
    if tasks.get(task).labelled:
        return adapter
    kept = {name: layer for name, layer in adapter.head.items() if name == LM_HEAD and task != "features"}
    return replace(adapter, head=kept, labels=None)


def _text_limits(base: BaseModel, inputs: Mapping[str, TensorInfo], manifest: Manifest) -> TextLimits | None:
    """Returns the limits of the texts that the model reads or writes; None if it does neither."""
    if not {"input_ids", "decoder_input_ids"} & set(inputs):
        return None
    config, task = base.module.config.get_text_config(), manifest.task
    pad = getattr(config, "pad_token_id", None)
    return TextLimits(
        vocabulary=config.vocab_size,
        pad=0 if pad is None else pad,
        types=getattr(config, "type_vocab_size", 0) or 0,
        longest=max_sequence(config),
        values=config.vocab_size if task in ("causal-lm", "seq2seq-lm") else config.hidden_size,
        end=config.eos_token_id if _looks_for_end(base, task) else None,
        borders=borders_of(base.module.config.to_dict()),
        positions=position_table(base),
        parameters=sum(parameter.numel() for parameter in base.module.parameters()),
        unbounded=not limited(config),
        # Beyond this border, no forward over the full text computes what `generate` of transformers writes.
        generation_limit=manifest.rotary_border if generates(manifest) and manifest.reread_at is None else None,
        sides=("right",) if manifest.right_padded else ("left", "right"),
    )


def _looks_for_end(base: BaseModel, task: str) -> bool:
    """Returns whether the model takes its output from the position of the end token of the text.

    CLIP does, and classifiers with an encoder and a decoder.
    """
    config = base.module.config
    return facts(config.model_type).end_token or (config.is_encoder_decoder and tasks.get(task).labelled)
