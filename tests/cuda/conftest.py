"""Tests of what only a GPU can show. All of this folder has the marker `cuda`, and skips where there is no GPU.

    make test-cuda                            all of them, in .venv
    make test-cuda PYTHON=python3             with the packages of that Python, without making an environment
    CUDA_TESTS_ON=cpu make test-cuda          a rehearsal of the tests themselves, on the CPU

Besides pytest they need only what the package needs to export. Figures of time are printed at the end, never asserted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.parity import pytorch_models
from adapter_export.providers import Provider
from tests.bundles import Exported
from tests.cuda import machine
from tests.cuda.checkout import ROOT, write_metadata
from tests.recorded import SHAPES

FOLDER = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()
# Large enough that a GPU multiplies its matrices by the kernels of real models, small enough to export in seconds.
WIDE: Mapping[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 128,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.cuda)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the figures that tests have left."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures, of this run alone")
        terminalreporter.write_line(machine.described())
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Called with a line that is printed below the tests."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture(scope="session", autouse=True)
def provider() -> Provider:
    """Where the tests run: `cuda`, unless they are rehearsed. The first of all fixtures, so that nothing is exported
    where there is no GPU.

    Where PyTorch sees a GPU and ONNX Runtime does not, the tests fail: skipping them would hide it.
    """
    if machine.rehearsing():
        return Provider.CPU
    if reason := machine.why_not_on_gpu():
        if machine.torch_has_cuda():
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return Provider.CUDA


@pytest.fixture(scope="session", autouse=True)
def known_version(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bundles have the version of this package, which Python knows of what is installed. A checkout that is not gets
    a folder that says it, for this process and for those that tests start.
    """
    try:
        version("adapter-export")
    except PackageNotFoundError:
        folder = tmp_path_factory.mktemp("metadata")
        write_metadata(folder)
        path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.setenv("PYTHONPATH", os.pathsep.join(path))
            yield
    else:
        yield


@pytest.fixture
def gpu(provider: Provider) -> Provider:
    """As `provider`, for what a rehearsal cannot show."""
    if provider.on_host:
        pytest.skip("a rehearsal: this needs a GPU")
    return provider


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity over three shapes in place of more than thirty. Each check of the whole bundle stays."""
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: list(SHAPES))


@pytest.fixture(scope="session")
def classifier_with(
    exported_once: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    classifier_checkpoints: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Exported]:
    """Called as (mode="swappable", **settings of export_onnx) -> the tiny BERT with an IA3 and a bottleneck."""

    def make(mode: str = "swappable", **settings: Any) -> Exported:
        adapters = {name: classifier_checkpoints[name] for name in ("ia3_three", "houlsby_four")}

        def export() -> Exported:
            bundle = tmp_path_factory.mktemp(f"classifier-{mode}") / "bundle"
            export_onnx(tiny_model("bert"), adapters, bundle, mode=mode, task="text-classification", **settings)
            return Exported(bundle, tiny_model("bert"), adapters)

        return exported_once("-".join(["classifier", mode, *map(str, settings.values())]), export)

    return make


@pytest.fixture(scope="session")
def decoder_with(
    exported_once: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Exported]:
    """Called as (mode="swappable", **settings of export_onnx) -> a Llama of one layer with a cache, LoRA and a
    bottleneck.
    """

    def make(mode: str = "swappable", **settings: Any) -> Exported:
        def export() -> Exported:
            base = tiny_model("llama", "causal-lm", num_hidden_layers=1)
            info = tiny_info("llama", "causal-lm", num_hidden_layers=1)
            adapters = {
                "lora": save_checkpoint(random_adapter(info, "lora", 41, rank=4, alpha=6), info),
                "houlsby": save_checkpoint(random_adapter(info, "bottleneck", 42, reduction_factor=4), info),
            }
            bundle = tmp_path_factory.mktemp("decoder") / "bundle"
            export_onnx(base, adapters, bundle, mode=mode, task="causal-lm", **settings)
            return Exported(bundle, base, adapters)

        return exported_once("-".join(["decoder", mode, *map(str, settings.values())]), export)

    return make


@pytest.fixture(scope="session")
def wide(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Callable[[str], Exported]:
    """Called as (mode) -> a BERT of WIDE's sizes; adapters `ia3_a`, `ia3_b`, `lora` and `houlsby`, of no task head."""

    def make(mode: str) -> Exported:
        def export_wide() -> Exported:
            info = tiny_info("bert", **WIDE)
            made = {
                "ia3_a": random_adapter(info, "ia3", 51),
                "ia3_b": random_adapter(info, "ia3", 52),
                "lora": random_adapter(info, "lora", 53, rank=8, alpha=2),
                "houlsby": random_adapter(info, "bottleneck", 54, reduction_factor=16),
            }
            adapters = {name: save_checkpoint(adapter, info) for name, adapter in made.items()}
            return export(tiny_model("bert", **WIDE), adapters, mode, "features")

        return exported_once(f"wide-{mode}", export_wide)

    return make
