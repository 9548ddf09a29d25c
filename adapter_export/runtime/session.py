"""Running a bundle: one ONNX Runtime session, any number of adapters. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.adapter_file import ort_value
from adapter_export.bundle.manifest import ADAPTER_IDS, IN_GRAPH, NUM_LABELS, Manifest
from adapter_export.checkpoints.files import optional_json
from adapter_export.checkpoints.problem_types import meaning
from adapter_export.errors import InputError
from adapter_export.runtime.bank import AdapterBank
from adapter_export.runtime.generation.bound import BoundGraph
from adapter_export.runtime.generation.config import GenerationConfig, read_generation_config
from adapter_export.runtime.generation.settings import Settings
from adapter_export.runtime.generation.start import Prompt, check_generates, start, unread_in
from adapter_export.runtime.generation.stream import Generation
from adapter_export.runtime.inputs import check_ends, check_inputs, check_positions, shared_end
from adapter_export.runtime.opening import (
    check_digest,
    check_dtype,
    check_files,
    check_graph,
    check_nothing_else,
    read_no_adapter,
)
from adapter_export.runtime.process import Home
from adapter_export.runtime.provider import open_model, run_errors
from adapter_export.runtime.residents import InGraph, Lease, Residents, Swapped
from adapter_export.runtime.shelf import Shelf
from adapter_export.runtime.store import LoadedAdapter
from adapter_export.runtime.usage import AdapterStatistics, Usage

if TYPE_CHECKING:
    import onnxruntime as ort

_log = logging.getLogger(__name__)


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

    A session belongs to the process that opened it: in a fork of that, whatever runs or loads raises WrongProcess.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        provider: str = "cpu",
        options: ort.SessionOptions | None = None,
        verify: bool = True,
        slots: int | None = None,
        expect_sha256: str | None = None,
    ) -> None:
        """Open a bundle. provider: `cpu` or `cuda`. options: for ONNX Runtime, threads for example; without
        a log level of their own, warnings are left out. slots: how many
        adapters a bank holds at once, in place of the bundle's own number. expect_sha256: hex digest of the bundle's
        manifest.json, from somewhere that whoever writes the bundle cannot change: no other bundle is opened, and
        nothing of it read that this manifest does not list. What `add` changes is then refused.

        Raises InputError for a bundle that is broken or of a mode this version cannot run, and ProviderError when the
        provider asked for is not the one that would run.
        """
        self._home = Home(f"AdapterSession of {bundle}")
        self.bundle = Path(bundle)
        self.provider = provider
        if expect_sha256 is not None:
            check_digest(expect_sha256, verify)
        self._shelf = Shelf(self.bundle, expect_sha256)
        manifest = self._shelf.manifest
        if verify:
            check_files(self.bundle, manifest)
        if expect_sha256 is not None:
            check_nothing_else(self.bundle, manifest)
        check_dtype(manifest, provider)
        self._sessions = {graph: open_model(self.bundle / graph, provider, options) for graph in manifest.graphs}
        for graph, session in self._sessions.items():
            check_graph(self.bundle, graph, manifest, session)
        self._fed = {graph: _fed_names(session, manifest) for graph, session in self._sessions.items()}
        self._inputs = manifest.graphs[manifest.model].given
        self._end = shared_end(manifest, optional_json(self.bundle / "config.json"))
        self._residents = self._residents_of(manifest, slots)
        # Files beside the bundle's own; a bank may have to read one again.
        self._foreign: dict[str, Path] = {}
        self._usage = Usage()
        self._noted: set[tuple[str, ...]] = set()
        if verify:
            self._shelf.verify()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest as last read."""
        return self._shelf.manifest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `run` takes: the bundle's adapters, and the files loaded beside them."""
        own = tuple(info.name for info in self.manifest.adapters)
        return (*own, *(name for name in self._foreign if name not in own))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the adapters in memory now; those in the graph of mode merged or embedded always are."""
        self._home.check()
        return self._residents.names

    @property
    def slots(self) -> int | None:
        """How many adapters a bank holds at once, and thus one batch; None in other modes."""
        return self._residents.slots if isinstance(self._residents, AdapterBank) else None

    def labels(self, adapter: str | None = None) -> tuple[str, ...] | None:
        """Class names of the outputs of a run with `adapter`; None where there are none.

        A foreign file holds no names: transformers' placeholders (`LABEL_0`, ...) stand in for them.
        """
        self._home.check()
        if self.manifest.in_graph:
            (loaded,) = self._residents.lease([adapter], self._load).adapters
        elif adapter is None:
            return self.manifest.labels
        else:
            loaded = self._residents.get(adapter)
            if loaded is None and adapter in self._foreign:
                loaded = self._load(adapter)
        own = loaded.labels if loaded is not None else self.manifest.adapter(str(adapter)).labels
        return own or self.manifest.labels

    def problem_type(self, adapter: str | None = None) -> str | None:
        """What the outputs of a run with `adapter` mean, see `checkpoints.problem_types`; None where they are no
        labels. Of a foreign file only their number tells."""
        labels = self.labels(adapter)
        if labels is None:
            return None
        manifest = self.manifest
        name = manifest.in_graph.name if manifest.in_graph else adapter
        info = next((info for info in manifest.adapters if info.name == name), None)
        # Without a head of its own, an adapter's outputs are those of the base model's.
        if info is not None and info.labels is not None:
            return meaning(info.problem_type, len(labels))
        return meaning(None if name in self._foreign else manifest.problem_type, len(labels))

    def load(self, name: str, path: str | Path | None = None) -> None:
        """Bring an adapter into memory; in place of one of that name, at once for all runs that begin afterwards.

        Without `path` it is read from the bundle as it is now, with what was added since it was opened. A file may not
        take the name of an adapter of the bundle. Raises InputError for an adapter that is unknown or does not fit;
        then what was loaded stays.
        """
        self._refuse_in_graph()
        if path is None:
            self._residents.put(self._shelf.read(name))
            return
        self._residents.put(self._shelf.read_foreign(name, Path(path)))
        self._foreign[name] = Path(path)

    def reread(self) -> Manifest:
        """The bundle's manifest as it is now. Raises InputError when it is gone, is of another graph than when it was
        opened, or holds its adapter in the graph, where nothing can change."""
        self._refuse_in_graph()
        return self._shelf.reread()

    def unload(self, name: str) -> None:
        """Forget an adapter in memory; runs under way finish with it. One of the bundle is loaded again when next used.

        Raises InputError when no adapter of that name is loaded.
        """
        self._refuse_in_graph()
        self._foreign.pop(name, None)
        if not self._residents.remove(name):
            raise InputError(f"adapter {name!r}: not loaded (loaded: {', '.join(self._residents.names) or 'none'})")

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: str | None = None,
        *,
        adapters: Sequence[str | None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name, of the graph with `adapter`; without one, of the base model.

        adapters: in mode bank, one for each row of the batch, None for the base model. Logits then have as many columns
        as the row with the most labels; those that another row has not are -inf there.

        Raises InputError for an unknown adapter, and for inputs that are not the graph's in name, dtype or shape.
        """
        outputs, labels = self._run(inputs, adapter, adapters)
        return {name: self._cut(name, value, max(labels)) for name, value in outputs.items()}

    def run_rows(self, inputs: Mapping[str, np.ndarray], adapters: Sequence[str | None]) -> list[dict[str, np.ndarray]]:
        """As `run`, the outputs of each row by itself, without its batch axis: logits of exactly its own labels."""
        outputs, labels = self._run(inputs, None, adapters)
        return [
            {name: self._cut(name, value[row], count) for name, value in outputs.items()}
            for row, count in enumerate(labels)
        ]

    def bound(self, adapters: Sequence[str | None]) -> dict[str, BoundGraph]:
        """The bundle's graphs by file, with the tensors of the adapters bound to them, one for each row: for whoever
        runs them step by step, their caches left where they lie. What is fed is checked by ONNX Runtime alone.

        Raises InputError for an unknown adapter, and for several in a graph that has one for all rows.
        """
        lease = self._lease(adapters)
        return {
            graph: BoundGraph(session, self.provider, self._feeds(graph, lease), lease)
            for graph, session in self._opened().items()
        }

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapter: str | None = None,
        *,
        adapters: Sequence[str | None] | None = None,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | Sequence[int] | None = None,
        stop_tokens: Sequence[int] = (),
        ignore_eos: bool = False,
        prefix: Sequence[int] = (),
    ) -> Generation:
        """New tokens for each prompt, a list of token ids, with `adapter`; of any lengths, in one batch. Encoders that
        read no text take an array a prompt (Whisper: input_features without the batch).

        Returns an iterator of steps, one new token a prompt each, and nothing runs before it is asked for;
        `.completions()` runs it to the end, `.close()` ends it. The adapter is the one of now, whatever is loaded or
        unloaded later. adapters: in mode bank, one for each prompt, which keeps it to its end.

        temperature: 0 takes the most probable token (greedy); above, a token is drawn with probability
        softmax(logits / temperature), among the `top_k` best, among the most probable that add up to `top_p`.
        repetition_penalty: divides the logits of tokens that the row holds, 1 for none; None for what the bundle's
        generation_config.json says. seed: of a draw; prompt i uses seed + i, or the i-th of several, so that its tokens
        depend on no other prompt. stop_tokens: end a row, besides the end tokens of the model, which `ignore_eos`
        leaves out. prefix: tokens that an encoder-decoder's answers begin with, in place of the one its config forces
        (mBART's language; Whisper's language, task and timestamps).

        The rules of generation_config.json hold (`generation.rules`). How to draw is not read from there: what is not
        given is greedy. Fields that would change the tokens and are not read are named in a warning, once.
        Raises InputError for an unknown adapter, a graph without a cache, prompts that do not fit, and settings out of
        range.
        """
        self._opened()
        check_generates(self.bundle, self.manifest)
        settings = Settings(
            max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, stop_tokens, ignore_eos, prefix
        )
        self._note_unread(settings)
        graphs = self.bound(self._rows(len(prompts), adapter, adapters))
        return start(graphs, self.manifest, self.generation_config, prompts, settings)

    def statistics(self) -> dict[str | None, AdapterStatistics]:
        """What was asked of each adapter since the session was opened; None is the base model."""
        self._home.check()
        return self._usage.statistics(self._residents.loads, self._residents.evictions)

    @property
    def adapter_bytes(self) -> int:
        """Memory of the adapters loaded now, beside the graph's own; of a bank, of the rows in use."""
        self._home.check()
        return self._residents.nbytes

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """Where the bundle's files say that generating ends, and how far it can go."""
        return read_generation_config(self.bundle)

    def close(self) -> None:
        """Free the graph and the adapters; runs under way finish. In a fork of the process nothing is freed."""
        self._sessions = {}
        if not self._home.here:
            return
        self._residents.clear()

    def __enter__(self) -> AdapterSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note_unread(self, settings: Settings) -> None:
        """Log, once, what of generation_config.json would have changed the tokens."""
        found = unread_in(self.generation_config, settings)
        if found and found not in self._noted:
            self._noted.add(found)
            _log.warning("bundle %s: generation_config.json: not read: %s", self.bundle, ", ".join(found))

    def _opened(self) -> Mapping[str, ort.InferenceSession]:
        """The graphs, for a run that keeps them even when the session is closed meanwhile."""
        self._home.check()
        if not (sessions := self._sessions):
            raise InputError(f"bundle {self.bundle}: the session is closed")
        return sessions

    def _residents_of(self, manifest: Manifest, slots: int | None) -> Residents:
        if info := manifest.in_graph:
            return InGraph(manifest.mode, LoadedAdapter(info.name, {}, info.labels))
        nothing = read_no_adapter(self.bundle, manifest)
        if manifest.mode == "bank":
            return AdapterBank(manifest, nothing, slots if slots is not None else manifest.slots, self.provider)
        return Swapped(nothing)

    @property
    def _tensors(self) -> Collection[str]:
        """Names that no caller feeds: adapters are chosen by theirs."""
        return self._fed[self.manifest.model]

    def _rows(self, rows: int, adapter: str | None, adapters: Sequence[str | None] | None) -> Sequence[str | None]:
        """The adapter of each row, of what a caller asks for."""
        if adapters is None:
            return [adapter] * rows
        if adapter is not None:
            raise InputError("adapters: expected either these, one a row, or one adapter for all; found both")
        if len(adapters) != rows:
            raise InputError(f"adapters: expected {rows}, one for each row of the batch, found {len(adapters)}")
        return adapters

    def _lease(self, rows: Sequence[str | None]) -> Lease:
        self._home.check()
        lease = self._residents.lease(rows, self._load)
        self._usage.count(rows)
        return lease

    def _load(self, name: str) -> LoadedAdapter:
        path = self._foreign.get(name)
        return self._shelf.read(name) if path is None else self._shelf.read_foreign(name, path)

    def _run(
        self, inputs: Mapping[str, np.ndarray], adapter: str | None, adapters: Sequence[str | None] | None
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        """The graph's outputs as they are, and how many labels each row has."""
        sessions = self._opened()
        check_inputs(inputs, self._inputs, self._tensors)
        check_positions(inputs, self.manifest.positions)
        if self._end is not None:
            check_ends(inputs["input_ids"], self._end)
        manifest = self.manifest
        batch = next(len(value) for value in inputs.values())
        with self._lease(self._rows(batch, adapter, adapters)) as lease:
            # The dictionary holds every array until the run is over.
            feeds = {name: _fed(value) for name, value in {**inputs, **self._feeds(manifest.model, lease)}.items()}
            with run_errors():
                values = sessions[manifest.model].run([*manifest.outputs], feeds)
        return dict(zip(manifest.outputs, values, strict=True)), lease.labels(manifest.labels)

    def _cut(self, name: str, value: np.ndarray, labels: int) -> np.ndarray:
        """Logits without the columns that a bank has beyond these labels."""
        padded = self.manifest.mode == "bank" and self.manifest.outputs[name].shape[-1] == NUM_LABELS
        return value[..., :labels] if padded else value

    def _feeds(self, graph: str, lease: Lease) -> dict[str, np.ndarray | ort.OrtValue]:
        return {name: value for name, value in lease.feeds.items() if name in self._fed[graph]}

    def _refuse_in_graph(self) -> None:
        self._home.check()
        if self.manifest.mode in IN_GRAPH:
            raise InputError(
                f"bundle {self.bundle}: mode {self.manifest.mode!r} takes no adapter into its graph; only 'swappable' "
                "and 'bank' load and unload"
            )


def _fed(value: np.ndarray | ort.OrtValue) -> np.ndarray | ort.OrtValue:
    """What ONNX Runtime takes in place of an array: one of bfloat16 it does not."""
    return ort_value(value) if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16" else value


def _fed_names(session: ort.InferenceSession, manifest: Manifest) -> frozenset[str]:
    """What this package feeds a graph besides the caller's inputs."""
    names = {value.name for value in session.get_overridable_initializers()}
    bound = {ADAPTER_IDS, *manifest.tensors}
    return frozenset(names | {value.name for value in session.get_inputs() if value.name in bound})
