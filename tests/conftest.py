"""What all tests share: tiny random models, adapters, checkpoints and batches, all made by factories.

Every fixture here is one per process and every made model is cached, so a test asks for what it needs and pays once.
    tiny_model("bert", "text-classification") -> folder of a saved model, with a tokenizer
    tiny_base("bert", "features", dtype=...)  -> the same, loaded afresh by `load_base`: yours to change
    tiny_info("bert")                         -> its ModelInfo
    random_adapter(info, "ia3", seed=1)       -> an Adapter, every tensor of it random
    save_checkpoint(adapter, info)            -> a new folder with that adapter in its own format
    inputs_for("t5", rows=3, length=7)        -> numpy inputs of that architecture, with padding
    minilm                                    -> folder of the real all-MiniLM-L6-v2 (marks the test as `real`)
All is seeded: the same call gives the same numbers in every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel, load_base
from tests import tiny

# Tests that run side by side share the cores; set before PyTorch is imported, which reads it once.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# Exported bundles.
pytest_plugins = ["tests.traces", "tests.bundles", "tests.decoders", "tests.finished", "tests.recorded"]

ROOT = Path(__file__).parents[1]
# All tests that need a GPU.
CUDA = ROOT / "tests" / "cuda"


def pytest_configure() -> None:
    """The same examples of hypothesis in every run; `HYPOTHESIS_PROFILE=search` looks for others, ten times as many."""
    try:
        import hypothesis
        from hypothesis.configuration import set_hypothesis_home_dir
    except ModuleNotFoundError:  # on a machine for tests/cuda; tests that use it say so themselves
        return
    set_hypothesis_home_dir(str(ROOT / ".cache" / "hypothesis"))
    hypothesis.settings.register_profile("tests", derandomize=True, database=None, deadline=None, max_examples=100)
    hypothesis.settings.register_profile("search", derandomize=False, database=None, deadline=None, max_examples=1000)
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m cuda` reads tests/cuda alone: the others need packages that a machine with a GPU may not have."""
    if not _only_cuda(config):
        return None
    return not (collection_path.is_relative_to(CUDA) or CUDA.is_relative_to(collection_path)) or None


def _only_cuda(config: pytest.Config) -> bool:
    return str(config.getoption("markexpr")).strip() == "cuda"


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A test that uses the real model needs the package index: it carries the `real` marker by itself."""
    for item in items:
        if "minilm" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Called as (model_type, task="features", num_labels=None, **config) -> folder, as `load_base` takes it.

    A model of 2 layers and 32 features with every weight random, norms and biases included (their usual initial values,
    ones and zeros, would hide mistakes). The weights of one architecture are the same for every task. Labelled tasks
    get a trained head of num_labels (default 3); config overrides settings of the architecture. A word-level tokenizer
    over `tiny.WORDS` lies beside (none for images; transformers insists on its own kind for qwen2, which knows few).
    """
    made: dict[Any, Path] = {}

    def make(model_type: str, task: str = "features", num_labels: int | None = None, **config: Any) -> Path:
        key = (model_type, task, num_labels, repr(sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{model_type}-{task}")
            tiny.save_model(folder, model_type, task, num_labels or tiny.LABELS, config)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Callable[..., Path]) -> Callable[..., BaseModel]:
    """Called as (model_type, task="features", num_labels=None, dtype=None, **config) -> BaseModel, newly loaded."""

    def make(model_type: str, task: str = "features", num_labels: int | None = None, dtype: Any = None, **config: Any):
        return load_base(tiny_model(model_type, task, num_labels, **config), task, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def tiny_info(tiny_base: Callable[..., BaseModel]) -> Callable[..., ModelInfo]:
    """Called as (model_type, task="features", num_labels=None, **config) -> ModelInfo of that tiny model."""
    made: dict[Any, ModelInfo] = {}

    def make(model_type: str, task: str = "features", num_labels: int | None = None, **config: Any) -> ModelInfo:
        key = (model_type, task, num_labels, repr(sorted(config.items())))
        if key not in made:
            made[key] = tiny_base(model_type, task, num_labels, **config).info
        return made[key]

    return make


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., Adapter]:
    """Called as (info, method, seed=0, *, labels=None, target=None, feedforward=None, **options) -> Adapter.

    Every tensor differs from its identity by random numbers of standard deviation 0.3: IA3 vectors scatter around 1,
    bottleneck matrices and biases around 0. options: the method's own (`placement="pfeiffer"`, `reduction_factor=4`).
    target, feedforward: regular expressions for a custom placement. labels: names of the classes of a random task head;
    None gives one with placeholder names, of 3 classes, where the model described has a head.
    """
    return tiny.random_adapter


@pytest.fixture(scope="session")
def save_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Called as (adapter, info, base_name="base") -> a new folder with the adapter as `save_adapter` writes it."""

    def make(adapter: Adapter, info: ModelInfo, base_name: str = "base") -> Path:
        folder = tmp_path_factory.mktemp(f"adapter-{adapter.method}")
        save_adapter(folder, adapter, info, base_name)
        return folder

    return make


@pytest.fixture(scope="session")
def text_batch() -> Callable[..., dict[str, np.ndarray]]:
    """Called as (rows=3, length=7, padding="right", seed=0) -> int64 input_ids and attention_mask, [rows, length].

    The first row is full; each later one has one token less (but at least one), the rest being padding on that side
    ("right", "left", or "none").
    """
    return tiny.text_batch


@pytest.fixture(scope="session")
def inputs_for() -> Callable[..., dict[str, np.ndarray]]:
    """Called as (model_type, rows=3, length=7, padding="right", seed=0) -> all inputs of that architecture, as numpy.

    Text as in text_batch; models with an encoder and a decoder get decoder_input_ids of two tokens less as well; vision
    models get pixel_values and Whisper input_features (length means nothing there); CLIP gets texts and images. For
    PyTorch: `{name: torch.from_numpy(value) for name, value in inputs.items()}`.
    """
    return tiny.inputs_for


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2, fetched on first use."""
    from samples import assets

    return assets.minilm()
