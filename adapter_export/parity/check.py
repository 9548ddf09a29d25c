"""`adapter-export parity`: judge every adapter of a bundle at every shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from adapter_export import tasks
from adapter_export.basemodel import BaseModel, load_base, use_padding
from adapter_export.bundle.adapter_file import HEAD_SLUG
from adapter_export.bundle.manifest import MANY, Manifest, TensorInfo, read_manifest
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.checkpoints.files import existing_folder
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError
from adapter_export.export.samples import max_sequence
from adapter_export.injection import complete_head
from adapter_export.parity.cases import Case, TextLimits, cases_for, make_inputs
from adapter_export.parity.checks import check_files, check_greedy, check_labels, check_repeats, repeat_case
from adapter_export.parity.eight_bits import STEP, quantize_module
from adapter_export.parity.greedy import GreedyTrial
from adapter_export.parity.judge import LIMITS, Verdict
from adapter_export.parity.law import law_of
from adapter_export.parity.measure import Measure
from adapter_export.parity.placement import check_provider
from adapter_export.parity.quantized import middle_divergence
from adapter_export.parity.reference import Reference
from adapter_export.parity.report import ParityReport, Result
from adapter_export.parity.runner import open_runner
from adapter_export.parity.settling import Measured, settle
from adapter_export.parity.trial import Trial
from adapter_export.parity.whole import whole_inputs
from adapter_export.runtime.generation.start import generates

Progress = Callable[[int, int], None]


def check_parity(
    bundle: str | Path,
    model: str | Path,
    adapters: Mapping[str, str | Path],
    provider: str = "cpu",
    progress: Progress | None = None,
) -> ParityReport:
    """Judge a bundle against the model folder and the adapter checkpoints it was made from.

    adapters: the checkpoint of every adapter of the bundle, by name. provider: `cpu` or `cuda`. progress: called with
    (cases done, cases in all). A bundle whose files are not those of its manifest fails without being run.

    Raises InputError for adapters that only one of `bundle` and `adapters` has, and for another base model;
    ProviderError when the provider is not to be had.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if manifest.dtype not in LIMITS:
        raise InputError(f"bundle {folder}: dtype {manifest.dtype!r}: expected one of {', '.join(LIMITS)}")
    _check_names(folder, manifest, adapters)
    _check_base(model, manifest)
    files = check_files(manifest, folder)
    report = ParityReport(folder, manifest.mode, manifest.task, manifest.dtype, provider, (files,))
    if files.verdict is Verdict.FAIL:
        return report

    law = law_of(manifest)
    exact, target = _load(model, manifest, "float64"), _load(model, manifest, manifest.dtype)
    loaded = {
        name: _for_task(
            complete_head(exact.module, manifest.base.head, _load_adapter(path, exact, manifest, name)), manifest.task
        )
        for name, path in adapters.items()
    }
    for base in (exact, target):
        use_padding(base, loaded)
    inputs = whole_inputs(manifest)
    limits = _text_limits(exact, inputs, manifest.task)
    cases = cases_for(inputs, limits)
    checks = [files, check_labels(manifest, loaded)]
    measured: Measured = {}
    with open_runner(folder, manifest, loaded, provider) as runner:
        references = Reference(exact), _target(manifest, target)
        trial = Trial(manifest, *references, runner, loaded)
        greedy = GreedyTrial(manifest, *references, runner, limits) if limits and generates(manifest) else None
        numbers = {case: number for number, case in enumerate([*cases, *([greedy.case] if greedy else [])])}

        def run(case: Case, draw: int = 0, roundings: int = 1) -> dict[tuple[str, str], Measure]:
            seed = numbers[case] + draw * len(numbers)
            if greedy and case == greedy.case:
                return greedy.run(loaded, seed, roundings)
            return trial.run(make_inputs(case, inputs, limits, seed), roundings)

        for case, number in numbers.items():
            if progress:
                progress(number, len(numbers))
            for key, item in run(case).items():
                measured.setdefault(key, {})[case] = item
        settled = settle(measured, law, run)
        repeated = make_inputs(repeat_case(cases), inputs, limits, seed=len(cases))
        checks.append(check_repeats(runner, repeated, list(loaded)))
    placement, check = check_provider(folder, provider, repeated, next(iter(loaded), None))
    checks.append(check)
    unreached = _take_unreached(measured)
    results = [
        Result(adapter, case, output, judgement)
        for (adapter, output), items in measured.items()
        for case, judgement in zip(items, law.judge(list(items.values())), strict=True)
    ]
    if generates(manifest):
        checks.append(check_greedy(results))
    return replace(
        report,
        checks=tuple(checks),
        results=tuple(results),
        notes=(*_notes(manifest, limits), *settled, *unreached, *_choices(manifest, measured)),
        placement=placement,
    )


def _check_names(folder: Path, manifest: Manifest, adapters: Mapping[str, object]) -> None:
    has = {info.name for info in manifest.adapters}
    if missing := sorted(has - set(adapters)):
        raise InputError(f"bundle {folder}: holds adapter {missing[0]!r}: expected --adapter {missing[0]}=DIR for it")
    if extra := sorted(set(adapters) - has):
        raise InputError(f"--adapter {extra[0]}: not in bundle {folder} (it has: {', '.join(sorted(has)) or 'none'})")


def _check_base(model: str | Path, manifest: Manifest) -> None:
    found = weights_sha256(existing_folder(model, "model"))
    if found != manifest.base.sha256:
        raise InputError(
            f"model {model}: weights are {found[:12]}..., but the bundle was made from {manifest.base.sha256[:12]}..."
        )


def _load(model: str | Path, manifest: Manifest, dtype: str) -> BaseModel:
    import torch

    return load_base(model, manifest.task, dtype=getattr(torch, dtype))


def _load_adapter(path: str | Path, base: BaseModel, manifest: Manifest, name: str) -> Adapter:
    """The adapter with the class names that an export gives it: names that its user chose are not the checkpoint's."""
    info = manifest.adapter(name)
    given = info.labels if info.labels_given else None
    return load_adapter(path, replace(base.info, labels=manifest.base.labels), task=manifest.task, labels=given)


def _target(manifest: Manifest, base: BaseModel) -> Reference:
    """T: PyTorch at the graph's precision."""
    if manifest.quantize == "none":
        return Reference(base)
    quantize_module(base.module, manifest.base.head if manifest.mode in MANY else ())
    return Reference(base, step=STEP)


def _for_task(adapter: Adapter, task: str) -> Adapter:
    """The adapter with the head that this task's graph has: its own for labels, else at most a repeated `lm_head`."""
    if tasks.get(task).labelled:
        return adapter
    kept = {name: layer for name, layer in adapter.head.items() if name == LM_HEAD and task != "features"}
    return replace(adapter, head=kept, labels=None)


def _text_limits(base: BaseModel, inputs: Mapping[str, TensorInfo], task: str) -> TextLimits | None:
    """What texts the model reads, or writes; None where it does neither."""
    if not {"input_ids", "decoder_input_ids"} & set(inputs):
        return None
    config = base.module.config.get_text_config()
    pad = getattr(config, "pad_token_id", None)
    return TextLimits(
        vocabulary=config.vocab_size,
        pad=0 if pad is None else pad,
        types=getattr(config, "type_vocab_size", 0) or 0,
        longest=max_sequence(config),
        values=config.vocab_size if task in ("causal-lm", "seq2seq-lm") else config.hidden_size,
        end=config.eos_token_id if _looks_for_end(base, task) else None,
    )


def _looks_for_end(base: BaseModel, task: str) -> bool:
    """Whether what the model tells of a text stands at its end token, whose place it looks for: CLIP, and classifiers
    of two stacks."""
    config = base.module.config
    return config.model_type.startswith("clip") or (config.is_encoder_decoder and tasks.get(task).labelled)


def _take_unreached(measured: dict[tuple[str, str], dict[Case, Measure]]) -> list[str]:
    """Outputs that an adapter does not reach at all, though it changes others (an adapter of the decoder alone, and the
    encoder's output): there is no change to compare, and they are judged as equal to R. Returns notes on them."""
    found = []
    changes = {key: {item.change for item in items.values()} - {None} for key, items in measured.items()}
    for (adapter, output), own in changes.items():
        others = [values for (name, other), values in changes.items() if name == adapter and other != output]
        if own == {0.0} and any(values - {0.0} for values in others):
            items = measured[adapter, output]
            items |= {case: replace(item, change=None, cosine=None, change_sums=None) for case, item in items.items()}
            found.append(f"adapter {adapter} changes nothing of {output}, in PyTorch neither")
    return found


def _choices(manifest: Manifest, measured: Mapping[tuple[str, str], Mapping[Case, Measure]]) -> Iterator[str]:
    """What quantized weights cost, adapter by adapter."""
    for (adapter, _), items in measured.items():
        found = [item.on.choice for item in items.values() if item.on is not None and item.on.choice is not None]
        if found:
            positions, divergence = sum(choice.positions for choice in found), middle_divergence(found)
            clear, agreed = sum(choice.clear for choice in found), sum(choice.agreed for choice in found)
            yield (
                f"{manifest.quantize}: {adapter}: KL {divergence:.1e} in the middle case; of {positions} positions "
                f"{clear} have a clear margin, {agreed} of them the same class on top"
            )


def _notes(manifest: Manifest, limits: TextLimits | None) -> list[str]:
    notes = []
    if limits and limits.judged < limits.longest:
        notes.append(f"sequences were judged up to {limits.judged} of the {limits.longest} tokens the model takes")
    if manifest.mode == "bank":
        notes.append("every row was judged in a batch beside rows of other adapters and of none")
    if manifest.mode not in MANY:
        notes.append(
            f"the graph ({manifest.mode}) has no state without its adapter: the change it makes was measured from "
            f"PyTorch at {manifest.dtype}"
        )
    elif manifest.labels is None and any(site.method == HEAD_SLUG for site in manifest.sites):
        notes.append(
            "the base model has no task head, so without an adapter there are no labels to compare; its body was "
            "judged through the head of each adapter"
        )
    return notes
