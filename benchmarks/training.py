"""Training against PEFT with its defaults: held-out accuracy, and CPU time per step.

    python -m benchmarks.training

MiniLM on the two tasks of the demo, from its 1,200 training texts, 3 epochs. Both sides have the same texts, seeds,
batch size, learning rate and schedule; PEFT runs in transformers' Trainer, with its own targets, ranks and starts, and
with the dropout of the model on, as that Trainer does. The head is the same random one.

A step is a forward and a backward pass, the clipping of gradients and an update, on the same batches in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import load_pytorch, train
from adapter_export.benchmarking.summary import ratio
from adapter_export.cli.table import print_table
from adapter_export.methods import registry
from adapter_export.methods.placement import placed
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import Injection
from adapter_export.models.quiet import quiet
from adapter_export.training.adapter_module import adapter_module
from adapter_export.training.settings import WARMUP_FRACTION
from benchmarks.timing import interleaved
from samples.assets import minilm
from samples.demo import EPOCHS, MAX_LENGTH, TASKS, Split, data

METHODS = ("ia3", "lora")
SEEDS = (0, 1)
BATCH = 32
ROUNDS = 60
OURS, PEFT, AGAIN, DROPOUT = "adapter-export", "PEFT", "PEFT again", "PEFT, dropout on"

Step = Callable[[], None]


@dataclass(frozen=True)
class Result:
    """One training run: held-out accuracy, trained values, and CPU seconds from the files to the trained adapter."""

    accuracy: float
    parameters: int
    seconds: float


def ours(method: str, texts: Split, test: Split, seed: int) -> Result:
    """A run of `train`."""
    with tempfile.TemporaryDirectory() as name:
        file = texts.write(Path(name, "train.csv"))
        started = time.process_time()
        result = train(
            minilm(), method, "text-classification", file, Path(name, "adapter"),
            epochs=EPOCHS, max_length=MAX_LENGTH, batch_size=BATCH, seed=seed,
        )  # fmt: skip
        seconds = time.process_time() - started
        return Result(accuracy(load_pytorch(minilm(), result.output), test), result.parameters, seconds)


def theirs(method: str, texts: Split, test: Split, seed: int) -> Result:
    """A run of transformers' Trainer with PEFT's adapter."""
    import transformers

    started = time.process_time()
    model = peft_model(method, len(set(texts.labels)), seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=registry.get(method).learning_rate,
            warmup_steps=int(WARMUP_FRACTION * EPOCHS * -(-len(texts.texts) // BATCH)),
            lr_scheduler_type="linear",
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            logging_strategy="no",
        )
        rows = encoded(texts)
        transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collator()).train()
    seconds = time.process_time() - started
    parameters = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return Result(accuracy(model.eval(), test), parameters, seconds)


def peft_model(method: str, labels: int, seed: int) -> Any:
    """MiniLM in PEFT, all settings of the method PEFT's own."""
    import peft
    import transformers

    transformers.set_seed(seed)
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=labels)
    config = {"ia3": peft.IA3Config, "lora": peft.LoraConfig}[method](task_type="SEQ_CLS")
    return peft.get_peft_model(model, config)


def encoded(split: Split) -> list[dict[str, Any]]:
    """The texts as token ids, with their labels as numbers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    names = sorted(set(split.labels))
    rows = tokenizer(split.texts, truncation=True, max_length=MAX_LENGTH)
    return [
        {**{name: rows[name][i] for name in rows}, "labels": names.index(label)} for i, label in enumerate(split.labels)
    ]


def collator() -> Any:
    import transformers

    return transformers.DataCollatorWithPadding(transformers.AutoTokenizer.from_pretrained(minilm()))


def accuracy(module: Any, test: Split) -> float:
    """Share of the test texts that a model classifies right."""
    import torch

    hits = []
    for batch in batches(encoded(test)):
        labels = batch.pop("labels")
        with torch.inference_mode():
            hits.append((module(**batch).logits.argmax(-1) == labels).numpy())
    return float(np.concatenate(hits).mean())


def batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows in their order, padded batch by batch."""
    collate = collator()
    for start in range(0, len(rows), BATCH):
        yield dict(collate([dict(row) for row in rows[start : start + BATCH]]))


def stepping(module: Any, learning_rate: float, rows: Sequence[Mapping[str, Any]]) -> Step:
    """A function that does the next step of training a module, which returns the loss of a batch."""
    import torch

    parameters = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    made = cycle(list(batches(rows)))

    def step() -> None:
        module(**next(made))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_module(method: str, labels: Sequence[str]) -> Any:
    """The module that `train` trains."""
    base = load_base(minilm(), "text-classification", labels=tuple(labels))
    chosen = registry.get(method)
    options, rng = chosen.Options(), np.random.default_rng(0)
    Injection(
        base.module,
        {
            site: chosen.initial(operator, base.info.features(site), options, rng)
            for site, operator in placed(chosen, base.info, options).items()
        },
    )
    for name in base.info.head:
        base.module.get_submodule(name).requires_grad_(True)
    return adapter_module(base)


def steps(method: str, texts: Split) -> dict[str, Step]:
    """What is measured in turn."""
    labels, rows = sorted(set(texts.labels)), encoded(texts)
    modules = {
        PEFT: peft_model(method, len(labels), 0).eval(),
        AGAIN: peft_model(method, len(labels), 0).eval(),
        OURS: our_module(method, labels),
        DROPOUT: peft_model(method, len(labels), 0).train(),
    }
    rate = registry.get(method).learning_rate
    return {name: stepping(module, rate, rows) for name, module in modules.items()}


def main() -> None:
    splits = data()
    speed = []
    for method in METHODS:
        seconds = interleaved(steps(method, splits[TASKS[0]][0]), ROUNDS)
        found = {name: ratio(seconds[name], seconds[PEFT]) for name in (AGAIN, OURS, DROPOUT)}
        speed.append((method, *(f"{item.value:.3f} ({item.low:.3f} to {item.high:.3f})" for item in found.values())))
    print_table(
        f"CPU time of a training step against PEFT without dropout ({ROUNDS} interleaved rounds, batches of {BATCH})",
        ("method", f"{AGAIN} (control)", OURS, DROPOUT),
        speed,
    )
    rows = []
    for task in TASKS:
        for method in METHODS:
            for seed in SEEDS:
                results = [run(method, *splits[task], seed) for run in (ours, theirs)]
                rows.append(
                    (
                        f"{task}, {method}, seed {seed}",
                        *(f"{result.parameters:,}" for result in results),
                        *(f"{result.accuracy:.3f}" for result in results),
                        f"{results[0].seconds / results[1].seconds:.2f}",
                    )
                )
                print(*rows[-1], flush=True)
    print_table(
        f"Held-out accuracy of {len(splits[TASKS[0]][1].texts)} texts, and CPU time of the whole run",
        ("run", f"trained, {OURS}", f"trained, {PEFT}", f"accuracy, {OURS}", f"accuracy, {PEFT}", "time of the run"),
        rows,
    )


if __name__ == "__main__":
    main()
