"""What each page takes for granted, under the names it uses: tiny models of random weights, adapters, data, bundles."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import load_base
from adapter_export.models.quiet import quiet
from tests import tiny
from tests.finished import make_graph

TOPICS = {
    "sport": ["the man was fast", "a good fast woman", "he was weak to the end", "she was fine and fast"],
    "food": ["sweet food on the hot day", "the best food of my house", "a light sweet", "food for you"],
}
# The longest text of docs/benchmarks.md.
POSITIONS = 128
# Room for all bytes besides the words.
VOCABULARY = 400


@dataclass(frozen=True)
class Shared:
    """Made once. folder: holds `MiniLM`, `llama`, their adapters by PEFT (`mood`, `one`, `two`) and by ours (`topics`,
    `sentiment`, `news`, `poems`, `style`, `domain`), and the bundles `swappable`, `bank` and `writer`.
    """

    folder: Path

    def copy(self, target: Path, **names: str) -> None:
        """Into `target`: name there, with `__` for `/` -> name here."""
        for name, source in names.items():
            shutil.copytree(self.folder / source, target / name.replace("__", "/"))


def make_shared(folder: Path) -> Shared:
    """Takes some 40 seconds, for three exports."""
    room = {"max_position_embeddings": POSITIONS}
    tiny.save_model(folder / "MiniLM", "bert", "features", tiny.LABELS, room)
    tiny.save_model(folder / "llama", "llama", "causal-lm", tiny.LABELS, {"vocab_size": VOCABULARY, **room})
    _byte_level_tokenizer(folder / "llama")
    classifier = load_base(folder / "MiniLM", "text-classification").info
    decoder = load_base(folder / "llama", "causal-lm").info
    ours: Mapping[str, Adapter] = {
        "topics": tiny.random_adapter(classifier, "ia3", 1, labels=tuple(sorted(TOPICS))),
        "news": tiny.random_adapter(classifier, "ia3", 2, labels=("home", "work", "you")),
        "sentiment": tiny.random_adapter(classifier, "bottleneck", 3, labels=("bad", "good"), reduction_factor=8),
        "poems": tiny.random_adapter(decoder, "bottleneck", 4, reduction_factor=8),
        "style": tiny.random_adapter(decoder, "lora", 8, rank=4),
        "domain": tiny.random_adapter(decoder, "lora", 9, rank=8),
    }
    writers = ("poems", "style", "domain")
    for name, adapter in ours.items():
        (folder / name).mkdir()
        save_adapter(folder / name, adapter, decoder if name in writers else classifier, name)
    _by_peft(folder / "MiniLM", folder / "mood", "AutoModelForSequenceClassification", "SEQ_CLS", 5)
    _by_peft(folder / "llama", folder / "one", "AutoModelForCausalLM", "CAUSAL_LM", 6)
    _by_peft(folder / "llama", folder / "two", "AutoModelForCausalLM", "CAUSAL_LM", 7)
    three = {name: folder / name for name in ("topics", "mood", "sentiment")}
    for mode in ("swappable", "bank"):
        export_onnx(folder / "MiniLM", three, folder / mode, mode=mode)
    export_onnx(folder / "llama", {name: folder / name for name in writers}, folder / "writer", mode="swappable")
    return Shared(folder)


def _by_peft(model: Path, output: Path, auto_class: str, task_type: str, seed: int) -> None:
    """An IA3 adapter that PEFT itself saves, every tensor of it random."""
    import peft
    import torch
    import transformers

    labels = {"num_labels": 2} if task_type == "SEQ_CLS" else {}
    with quiet():
        base = getattr(transformers, auto_class).from_pretrained(model, **labels)
    trained = peft.get_peft_model(base, peft.IA3Config(task_type=task_type))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.3 * noise if parameter.shape[0] == 2 else 1 + 0.3 * noise)
    trained.save_pretrained(output)


def _byte_level_tokenizer(folder: Path) -> None:
    """In place of the words' own, which ONNX Runtime GenAI does not read."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" ".join(tiny.WORDS)] * 3, VOCABULARY, special_tokens=list(tiny.SPECIAL), show_progress=False
    )
    pad, unknown, start, end = tiny.SPECIAL
    PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token=pad, unk_token=unknown, bos_token=start, eos_token=end
    ).save_pretrained(folder)


def prepare(page: str, folder: Path, shared: Shared) -> None:
    """Fill `folder` with what `page` takes for granted."""
    _PAGES.get(page, lambda folder, shared: None)(folder, shared)


def _readme(folder: Path, shared: Shared) -> None:
    shared.copy(folder, out__demo__bundle="swappable")
    demo = folder / "out/demo/bundle/adapters"
    (demo / "sentiment.onnx_adapter").rename(demo / "sentiment-ia3.onnx_adapter")


def _getting_started(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MiniLM="MiniLM")
    shutil.copytree(shared.folder / "mood", folder / "peft-folder")


def _usage(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MiniLM="MiniLM", adapters__news="news", writer="writer")
    shutil.copytree(shared.folder / "mood", folder / "peft-folder")
    (folder / "names.txt").write_text("unhappy\nhappy\n", encoding="utf-8")
    for name in ("train.csv", "test.csv"):
        _table(folder / name)


def _ray(folder: Path, shared: Shared) -> None:
    shared.copy(folder, bank="bank")
    _table(folder / "test.csv")


def _table(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(text, label) for label, texts in TOPICS.items() for text in texts]
        csv.writer(file).writerows([("text", "label"), *rows])


def _benchmarks(folder: Path, shared: Shared) -> None:
    shared.copy(folder, bundle="swappable", swappable="swappable", bank="bank")


def _deployment(folder: Path, shared: Shared) -> None:
    shared.copy(folder, bank="bank")


def _generation(folder: Path, shared: Shared) -> None:
    shared.copy(folder, bundle="writer")


def _graft(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MiniLM="MiniLM")
    shutil.copytree(shared.folder / "mood", folder / "peft-folder")
    make_graph("optimum", folder / "MiniLM", folder / "finished")


def _merge(folder: Path, shared: Shared) -> None:
    shared.copy(folder, llama="llama", one="one", two="two")
    shutil.copytree(shared.folder / "one", folder / "peft-folder")


def _parity(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MODEL="MiniLM", ADAPTER="mood")
    # A bundle of the one adapter that is judged.
    export_onnx(folder / "MODEL", {"topics": folder / "ADAPTER"}, folder / "bundle", mode="merged")


def _test_suite(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MiniLM="MiniLM", adapters__topics="topics")
    export_onnx(folder / "MiniLM", {"topics": folder / "adapters/topics"}, folder / "bundle", mode="swappable")


def _server(folder: Path, shared: Shared) -> None:
    shared.copy(folder, bank="bank", writer="writer")


def _serving(folder: Path, shared: Shared) -> None:
    shared.copy(folder, MiniLM="MiniLM", adapters__topics="topics", bundle="swappable", bank="bank", writer="writer")


_PAGES: Mapping[str, Callable[[Path, Shared], None]] = {
    "README.md": _readme,
    "docs/benchmarks.md": _benchmarks,
    "docs/deployment.md": _deployment,
    "docs/generation.md": _generation,
    "docs/getting-started.md": _getting_started,
    "docs/graft.md": _graft,
    "docs/merge.md": _merge,
    "docs/parity.md": _parity,
    "docs/ray.md": _ray,
    "docs/server.md": _server,
    "docs/serving.md": _serving,
    "docs/test-suite.md": _test_suite,
    "docs/usage.md": _usage,
}
