"""Running a bundle: one ONNX Runtime session, any number of adapters. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG, check_adapter, ort_value, read_adapter_file
from adapter_export.bundle.manifest import MANIFEST, Manifest, read_manifest
from adapter_export.checkpoints.files import sha256
from adapter_export.errors import InputError, ProviderError
from adapter_export.naming import check_adapter_name
from adapter_export.runtime.generation.bound import BoundGraph
from adapter_export.runtime.generation.config import GenerationConfig, read_generation_config
from adapter_export.runtime.generation.settings import Settings
from adapter_export.runtime.generation.start import Prompt, check_generates, start
from adapter_export.runtime.generation.stream import Generation
from adapter_export.runtime.inputs import check_inputs
from adapter_export.runtime.provider import open_model, run_errors
from adapter_export.runtime.store import AdapterStore, LoadedAdapter
from adapter_export.runtime.verified import VerifiedFiles

if TYPE_CHECKING:
    import onnxruntime as ort

_MODES = ("merged", "embedded", "swappable")
# A bundle may be added to while it is read: its manifest is read again, this many times in all.
_ATTEMPTS = 3


class AdapterSession:
    """A bundle, ready to run with any of its adapters, from any number of threads.

        with AdapterSession("bundle") as session:
            session.run({"input_ids": ids, "attention_mask": mask}, adapter="sentiment")["logits"]

    The bundle's own adapters are loaded on first use, or by `load(name)`; `load(name, path)` takes any other
    `.onnx_adapter` file. An adapter in memory is a copy of its own: no file that changes, and no adapter replaced or
    unloaded meanwhile, changes a run that has begun. In modes merged and embedded the one adapter is in the graph and
    always runs.

    What is checked when: on opening, the sha256 of every file of the bundle, unless `verify=False` (some 0.6 s a GB),
    and that graph and manifest name the same tensors. Of every adapter the sha256, and the names, shapes, dtypes and
    finite values of its tensors: on opening or, without `verify`, when first loaded, and again whenever its file was
    touched since; one that fails is refused when it is used, and the others go on. A foreign file has no sha256 to
    compare: it is refused when it says that it belongs to another base model; a number changed in it cannot be seen.

    Adapters travel as the run's inputs, which override the graph's defaults. ONNX Runtime's own LoraAdapter does the
    same at the same speed, but falls back to the base model without a word when the object is collected too early, and
    in `run_async` and `run_with_iobinding`; and it keeps the file mapped.
    """

    def __init__(
        self,
        bundle: str | Path,
        provider: str = "cpu",
        *,
        options: ort.SessionOptions | None = None,
        verify: bool = True,
    ) -> None:
        """Open a bundle. provider: `cpu` or `cuda`. options: for ONNX Runtime, threads for example.

        Raises InputError for a bundle that is broken or of a mode this version cannot run, and ProviderError when the
        provider asked for is not the one that would run.
        """
        self.bundle = Path(bundle)
        self.provider = provider
        self._stamp = _stamp(self.bundle)
        self._manifest = read_manifest(self.bundle)
        if self._manifest.mode not in _MODES:
            raise InputError(f"bundle {bundle}: mode {self._manifest.mode!r}: expected one of {', '.join(_MODES)}")
        if verify:
            _verify(self.bundle, self._manifest)
        _check_dtype(self._manifest, provider)
        self._sessions = {graph: open_model(self.bundle / graph, provider, options) for graph in self._manifest.graphs}
        for graph, session in self._sessions.items():
            _check_graph(self.bundle, graph, self._manifest, session)
        self._tensors = self._manifest.tensors if self._swappable else {}
        self._outputs = list(self._manifest.outputs)
        self._store = AdapterStore()
        self._files = VerifiedFiles()
        if verify and self._swappable:
            for info in self._manifest.adapters:
                with contextlib.suppress(InputError):  # raised when it is used
                    self._files.read(self.bundle, info, self._manifest)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest as last read."""
        return self._manifest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `run` takes: the bundle's adapters, and the files loaded beside them."""
        own = tuple(info.name for info in self._manifest.adapters)
        return (*own, *(name for name in self._store.names if name not in own))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the adapters in memory now; those in the graph of mode merged or embedded always are."""
        return self._store.names if self._swappable else self.adapters

    def labels(self, adapter: str | None = None) -> tuple[str, ...] | None:
        """Class names of the outputs of a run with `adapter`; None where there are none.

        A foreign file holds no names: transformers' placeholders (`LABEL_0`, ...) stand in for them.
        """
        if not self._swappable:
            adapter = self._in_graph(adapter)
            return self._manifest.adapter(adapter).labels or self._manifest.labels
        if adapter is None:
            return self._manifest.labels
        loaded = self._store.get(adapter)
        own = self._manifest.adapter(adapter).labels if loaded is None else loaded.labels
        return own or self._manifest.labels

    def load(self, name: str, path: str | Path | None = None) -> None:
        """Bring an adapter into memory; in place of one of that name, at once for all runs that begin afterwards.

        Without `path` it is read from the bundle as it is now, with what was added since it was opened. A file may not
        take the name of an adapter of the bundle. Raises InputError for an adapter that is unknown or does not fit;
        then what was loaded stays.
        """
        self._refuse_in_graph()
        if path is None:
            self._load_own(name)
            return
        check_adapter_name(name)
        if any(info.name == name for info in self._manifest.adapters):
            raise InputError(f"adapter {name!r}: the bundle has one of that name; load the file under another")
        tensors = read_adapter_file(Path(path), self._manifest.base.sha256)
        check_adapter(str(path), tensors, self._manifest)
        self._store.put(LoadedAdapter(name, tensors, self._placeholders(tensors)))

    def unload(self, name: str) -> None:
        """Forget an adapter in memory; runs under way finish with it. One of the bundle is loaded again when next used.

        Raises InputError when no adapter of that name is loaded.
        """
        self._refuse_in_graph()
        if not self._store.remove(name):
            raise InputError(f"adapter {name!r}: not loaded (loaded: {', '.join(self._store.names) or 'none'})")

    def run(self, inputs: Mapping[str, np.ndarray], adapter: str | None = None) -> dict[str, np.ndarray]:
        """Outputs by name, of the graph with `adapter`; without one, of the base model.

        Raises InputError for an unknown adapter, and for inputs that are not the graph's in name, dtype or shape.
        """
        sessions = self._opened()
        check_inputs(inputs, self._manifest.inputs, self._tensors)
        tensors = self._tensors_of(adapter)
        with run_errors():
            # The dictionaries hold every array until the run is over.
            feeds = {name: _fed(array) for name, array in {**inputs, **tensors}.items()}
            values = sessions[self._manifest.model].run(self._outputs, feeds)
        return dict(zip(self._outputs, values, strict=True))

    def bound(self, adapter: str | None = None) -> dict[str, BoundGraph]:
        """The bundle's graphs by file, with the tensors of `adapter` bound to them: for whoever runs them step by step,
        their caches left where they lie. What is fed is checked by ONNX Runtime alone.

        Raises InputError for an unknown adapter.
        """
        tensors = self._tensors_of(adapter)
        return {graph: BoundGraph(session, self.provider, tensors) for graph, session in self._opened().items()}

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapter: str | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | Sequence[int] | None = None,
        stop_tokens: Sequence[int] = (),
        ignore_eos: bool = False,
        prefix: Sequence[int] = (),
    ) -> Generation:
        """New tokens for each prompt, a list of token ids, with `adapter`; of any lengths, in one batch. Encoders that
        read no text take an array a prompt (Whisper: input_features without the batch).

        Returns an iterator of steps, one new token a prompt each, and nothing runs before it is asked for;
        `.completions()` runs it to the end, `.close()` ends it. The adapter is the one of now, whatever is loaded or
        unloaded later.

        temperature: 0 takes the most probable token (greedy); above, a token is drawn with probability
        softmax(logits / temperature), among the `top_k` best, among the most probable that add up to `top_p`.
        repetition_penalty: divides the logits of tokens that the row holds, 1 for none. seed: of a draw; prompt i uses
        seed + i, or the i-th of several, so that its tokens depend on no other prompt. stop_tokens: end a row, besides
        the end tokens of the model, which `ignore_eos` leaves out. prefix: tokens that an encoder-decoder's answers
        begin with, in place of those its config forces (mBART's language; Whisper's language, task and timestamps).

        Raises InputError for an unknown adapter, a graph without a cache, prompts that do not fit, and settings out of
        range. Settings for sampling in the bundle's generation_config.json are not read: what is not given is greedy.
        """
        sessions = self._opened()
        check_generates(self.bundle, self._manifest)
        settings = Settings(
            max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, stop_tokens, ignore_eos, prefix
        )
        tensors = self._tensors_of(adapter)
        return start(sessions, self._manifest, self.generation_config, self.provider, tensors, prompts, settings)

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """Where the bundle's files say that generating ends, and how far it can go."""
        return read_generation_config(self.bundle)

    def close(self) -> None:
        """Free the graph and the adapters; runs under way finish."""
        self._sessions = {}
        self._store.clear()

    def __enter__(self) -> AdapterSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Mapping[str, ort.InferenceSession]:
        """The graphs, for a run that keeps them even when the session is closed meanwhile."""
        if not (sessions := self._sessions):
            raise InputError(f"bundle {self.bundle}: the session is closed")
        return sessions

    def _tensors_of(self, adapter: str | None) -> Mapping[str, np.ndarray]:
        """What a run with `adapter` feeds besides its inputs; raises InputError for an unknown one."""
        if not self._swappable:
            self._in_graph(adapter)
        elif adapter is not None:
            return (self._store.get(adapter) or self._load_own(adapter)).tensors
        return {}

    @property
    def _swappable(self) -> bool:
        return self._manifest.mode == "swappable"

    def _in_graph(self, adapter: str | None) -> str:
        """The name of the adapter in the graph; raises InputError when `adapter` asks for another."""
        (name,) = self.adapters
        if adapter not in (None, name):
            raise InputError(
                f"adapter {adapter!r}: mode {self._manifest.mode!r} holds one adapter in the graph: {name!r}"
            )
        return name

    def _refuse_in_graph(self) -> None:
        if not self._swappable:
            raise InputError(
                f"bundle {self.bundle}: mode {self._manifest.mode!r} holds its adapter in the graph; only 'swappable' "
                "loads and unloads"
            )

    def _load_own(self, name: str) -> LoadedAdapter:
        for attempt in range(1, _ATTEMPTS + 1):
            manifest = self._reread(name)
            info = manifest.adapter(name)
            try:
                tensors = self._files.read(self.bundle, info, manifest)
                break
            except InputError:
                # `add` replaced the adapter between the two reads, if the manifest says something else now.
                if attempt == _ATTEMPTS or self._reread(name).adapter(name) == info:
                    raise
        adapter = LoadedAdapter(name, tensors, info.labels)
        self._store.put(adapter)
        return adapter

    def _reread(self, name: str) -> Manifest:
        """The bundle's manifest now. Raises InputError when it has no adapter `name`, or is of another graph."""
        stamp = _stamp(self.bundle)
        manifest = self._manifest if stamp == self._stamp else read_manifest(self.bundle)
        if _graphs(manifest) != _graphs(self._manifest):
            raise InputError(f"bundle {self.bundle}: holds another graph than when it was opened; open it anew")
        if all(info.name != name for info in manifest.adapters):
            raise InputError(f"adapter {name!r}: expected one of {', '.join(self.adapters) or 'none'}")
        self._manifest, self._stamp = manifest, stamp
        return manifest

    def _placeholders(self, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
        heads = [site for site in self._manifest.sites if site.method == HEAD_SLUG]
        weights = [
            tensors[name] for site in heads for name in site.tensors if name in tensors and tensors[name].ndim > 1
        ]
        return tuple(f"LABEL_{i}" for i in range(len(weights[-1]))) if weights else None


def _stamp(bundle: Path) -> tuple[int, ...] | None:
    """Changes whenever the manifest does: it is never written in place. None when it is gone."""
    try:
        found = (bundle / MANIFEST).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _fed(array: np.ndarray) -> np.ndarray | ort.OrtValue:
    """What ONNX Runtime takes in place of the array: an array of bfloat16 it does not."""
    return ort_value(array) if array.dtype.name == "bfloat16" else array


def _check_dtype(manifest: Manifest, provider: str) -> None:
    if manifest.dtype == "bfloat16" and provider == "cpu":
        raise ProviderError(
            "provider 'cpu': the bundle computes in bfloat16, for which ONNX Runtime's CPU provider has no operators; "
            "use provider 'cuda', or export with --dtype fp16 or fp32"
        )


def _verify(bundle: Path, manifest: Manifest) -> None:
    """Raise InputError unless the bundle's files are those the manifest was written for. Adapters are checked when they
    are loaded; what a runtime can do without, such as a tokenizer, may be gone but not changed."""
    adapters = {info.file for info in manifest.adapters}
    for name, digest in manifest.files.items():
        path = bundle / name
        if name in adapters:
            continue
        if path.is_file():
            if (found := sha256(path)) != digest:
                raise InputError(f"{path}: expected a file with sha256 {digest[:12]}..., found {found[:12]}...")
        elif name.startswith(tuple(manifest.graphs)):
            raise InputError(f"{path}: no such file, though the bundle's manifest lists it")


def _graphs(manifest: Manifest) -> tuple[Any, ...]:
    """What must stay as it was while a session has the bundle open."""
    return manifest.sites, manifest.base, {graph: manifest.files[graph] for graph in manifest.graphs}


def _check_graph(bundle: Path, graph: str, manifest: Manifest, session: ort.InferenceSession) -> None:
    """Raise InputError unless graph and manifest name the same inputs, outputs and adapter tensors."""
    swappable = manifest.tensors if manifest.mode == "swappable" else {}
    for what, listed, found in (
        ("input", manifest.graphs[graph].inputs, session.get_inputs()),
        ("output", manifest.graphs[graph].outputs, session.get_outputs()),
        ("adapter tensor", swappable, session.get_overridable_initializers()),
    ):
        if odd := {*listed} ^ {value.name for value in found}:
            side = "the manifest lists, the graph lacks" if min(odd) in listed else "the manifest does not list"
            raise InputError(f"{bundle / graph}: {what} {min(odd)!r}: {side}")
