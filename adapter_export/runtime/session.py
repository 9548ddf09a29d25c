"""Runs a bundle: one ONNX Runtime session for each graph, and any number of adapters. Needs numpy and onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.graphs import ADAPTER_IDS, NUM_LABELS
from adapter_export.bundle.manifest import Manifest
from adapter_export.bundle.ort_values import needs_ort_value, ort_value
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.reading.json_files import optional_json
from adapter_export.runtime.adapters.choice import AdapterChoice, AdapterKey, chosen, is_composed
from adapter_export.runtime.adapters.loaded import Lease
from adapter_export.runtime.adapters.session_adapters import SessionAdapters
from adapter_export.runtime.adapters.source import BundleAdapters
from adapter_export.runtime.adapters.usage import AdapterStatistics
from adapter_export.runtime.bundle_checks import (
    check_digest,
    check_dtype,
    check_files,
    check_graph,
    check_nothing_else,
    read_no_adapter,
)
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.generation.config import GenerationConfig, read_generation_config
from adapter_export.runtime.generation.prepare import Prompt, check_generates, generates, start, unread_in
from adapter_export.runtime.generation.settings import GenerationSettings
from adapter_export.runtime.generation.stream import Generation
from adapter_export.runtime.inputs import check_ends, check_inputs, check_positions, check_tokens, shared_end
from adapter_export.runtime.process import Home
from adapter_export.runtime.provider import open_model, run_errors, still_options

if TYPE_CHECKING:
    import onnxruntime as ort

_log = logging.getLogger(__name__)


class AdapterSession:
    """An open bundle, which runs with any of its adapters. Any number of threads may use one session.

        with AdapterSession("bundle") as session:
            session.run({"input_ids": ids, "attention_mask": mask}, adapter="sentiment")["logits"]

    The bundle's own adapters are loaded on first use, or by `load(name)`. `load(name, path)` loads any other
    `.onnx_adapter` file. Loading copies the adapter into memory. A run that has begun keeps its adapters, even if their
    files change, or if an adapter is replaced or unloaded during the run. In modes merged and embedded, the only
    adapter is in the graph, and every run uses it.

    A session checks the following:

    - When it opens: the sha256 of every file of the bundle, unless `verify=False` (this takes about 0.6 s per GB), and
      that the graph and the manifest name the same tensors.
    - For every adapter of the bundle: its sha256, and the names, shapes and dtypes of its tensors, and that their
      values are finite. This happens when the session opens or, with `verify=False`, when the adapter is first loaded,
      and again when its file has changed. If an adapter fails a check, using it raises an error. The other adapters
      still work.
    - For a file from outside of the bundle: the same, except the sha256, because the manifest does not list one. Such a
      file is refused if it names another base model. Changed values in it are not detected.

    Adapter tensors are passed to the graph as inputs of the run, and override the defaults of the graph. ONNX Runtime's
    own LoraAdapter does the same at the same speed. But it keeps the file mapped, and it falls back to the base model
    without an error if its object is garbage-collected too early, in `run_async` and in `run_with_iobinding`.

    A session belongs to the process that opened it. In a fork of that process, running or loading raises WrongProcess.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        provider: str = "cpu",
        options: ort.SessionOptions | None = None,
        tf32: bool = False,
        verify: bool = True,
        slots: int | None = None,
        expect_sha256: str | None = None,
    ) -> None:
        """Opens a bundle.

        Args:
            bundle: Folder of the bundle.
            provider: `cpu` or `cuda`.
            options: Options for ONNX Runtime, such as the number of threads. If they set no log level, warnings are
                not logged. None for the defaults, except that the threads of a bundle that generates do not spin while
                they wait.
            tf32: With `cuda`, whether products of float32 matrices may be computed in TF32, whose mantissa has as few
                bits as that of float16 (see docs/precision.md).
            verify: Whether to check the sha256 of all files now.
            slots: In mode bank, how many adapters are in memory at once; None for the number in the manifest.
            expect_sha256: Expected hex digest of the bundle's manifest.json. Take it from a place that the writer of
                the bundle cannot change. A bundle with another manifest, or with files that the manifest does not list,
                is refused, and so are later changes by `add`.

        Raises:
            InputError: The bundle is broken, or this version cannot run its mode.
            ProviderError: The session would run on another provider than the requested one.
        """
        self._home = Home(f"AdapterSession of {bundle}")
        self.bundle = Path(bundle)
        self.provider = Provider.parse(provider, "provider")
        if expect_sha256 is not None:
            check_digest(expect_sha256, verify)
        source = BundleAdapters(self.bundle, expect_sha256)
        manifest = source.manifest
        if verify:
            check_files(self.bundle, manifest)
        if expect_sha256 is not None:
            check_nothing_else(self.bundle, manifest)
        check_dtype(manifest, self.provider)
        if options is None and generates(manifest):
            options = still_options()
        self._sessions = {
            graph: open_model(self.bundle / graph, provider, options, tf32=tf32) for graph in manifest.graphs
        }
        for graph, session in self._sessions.items():
            check_graph(self.bundle, graph, manifest, session)
        self._fed = {graph: _fed_names(session, manifest) for graph, session in self._sessions.items()}
        self._inputs = manifest.graphs[manifest.model].given
        self._end = shared_end(manifest, optional_json(self.bundle / "config.json"))
        self._adapters = SessionAdapters(source, read_no_adapter(self.bundle, manifest), self.provider, slots)
        self._noted: set[tuple[str, ...]] = set()
        if verify:
            source.verify()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest as it was last read."""
        return self._adapters.manifest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `run` accepts: the bundle's adapters, then the adapters loaded from other files."""
        return self._adapters.names

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the adapters in memory, alone or in a composition. In modes merged and embedded, the name of the
        adapter in the graph.
        """
        self._home.check()
        return self._adapters.loaded

    @property
    def slots(self) -> int | None:
        """How many different adapters fit in a bank, and in one batch; None in other modes."""
        return self._adapters.slots

    def labels(self, adapter: AdapterChoice = None, *, head: str | None = None) -> tuple[str, ...] | None:
        """Returns the class names of the outputs of a run with this adapter; None if the outputs are not classes.

        A file from outside of the bundle contains no class names. Its classes get the placeholders of transformers
        (`LABEL_0`, ...).

        Args:
            adapter: The adapter or adapters, as for `run`; None for the base model.
            head: As for `run`.

        Raises:
            InputError: An adapter is unknown, or it is not clear whose task head a composition has.
        """
        self._home.check()
        return self._adapters.labels(chosen(adapter, head))

    def problem_type(self, adapter: AdapterChoice = None, *, head: str | None = None) -> str | None:
        """Returns what the outputs of a run with this adapter mean; None if they are not labels.

        For a file from outside of the bundle, the answer depends on the number of labels alone.

        Args:
            adapter: The adapter or adapters, as for `run`; None for the base model.
            head: As for `run`.

        Returns:
            One of the constants in `checkpoints.problem_types`, or None.

        Raises:
            InputError: As for `labels`.
        """
        self._home.check()
        return self._adapters.problem_type(chosen(adapter, head))

    def load(self, name: str, path: str | Path | None = None) -> None:
        """Loads an adapter into memory. It replaces a loaded adapter of the same name for all runs that begin later.

        Args:
            name: Name of the adapter.
            path: An `.onnx_adapter` file from outside of the bundle, whose name must not be that of an adapter of the
                bundle; of another bundle for the same base model, or of Olive. None to read the adapter from the bundle
                as it is now, including adapters added since it was opened.

        Raises:
            InputError: The adapter is unknown or does not fit. Nothing has changed then.
        """
        self._home.check()
        self._adapters.load(name, None if path is None else Path(path))

    def reread(self) -> Manifest:
        """Reads the bundle's manifest again if it has changed, and returns it.

        Raises:
            InputError: The manifest is missing, or describes another graph than when the session was opened; or the
                adapter is in the graph (modes merged and embedded), where it cannot change.
        """
        self._home.check()
        return self._adapters.reread()

    def unload(self, name: str) -> None:
        """Removes an adapter, and compositions that contain it, from memory. Runs that have begun keep it. An adapter
        of the bundle is loaded again when it is next used.

        Args:
            name: Name of the adapter.

        Raises:
            InputError: No adapter of this name is loaded.
        """
        self._home.check()
        self._adapters.unload(name)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: AdapterChoice = None,
        *,
        adapters: Sequence[AdapterChoice] | None = None,
        head: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs the graph on one batch, and returns its outputs by name.

        Several adapters can act at once, each with a strength: `adapter={"style": 0.7, "domain": 0.3}`. A strength
        multiplies what the adapter does: 0 is no adapter, 1 the adapter as it was trained. Tensors of each method have
        a rule for this (`composition.CompositionRule`); without one, and for adapters that act on one module by
        different operators, a composition is refused.

        Args:
            inputs: The inputs of the graph by name, with their batch axis.
            adapter: The adapter for all rows: a name, or the strengths of several by their names; None for the base
                model.
            adapters: In mode bank, the adapter of each row, in place of `adapter`; None for the base model. The logits
                then have as many columns as the row with the most labels. Columns that a row has no labels for are
                -inf.
            head: Which of several adapters' task heads is used. None if at most one of them has a task head.

        Raises:
            InputError: An adapter is unknown, adapters cannot be composed, or the names, dtypes or shapes of the inputs
                are not those of the graph.
        """
        outputs, labels = self._run(inputs, adapter, adapters, head)
        return {name: self._cut(name, value, max(labels)) for name, value in outputs.items()}

    def run_rows(
        self, inputs: Mapping[str, np.ndarray], adapters: Sequence[AdapterChoice], *, head: str | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Runs the graph on one batch like `run`, and returns the outputs of each row separately.

        Args:
            inputs: The inputs of the graph by name, with their batch axis.
            adapters: The adapter or adapters of each row, as for `run`; None for the base model.
            head: As for `run`.

        Returns:
            For each row its outputs by name, without the batch axis. The logits have exactly the labels of the row.

        Raises:
            InputError: As for `run`.
        """
        outputs, labels = self._run(inputs, None, adapters, head)
        return [
            {name: self._cut(name, value[row], count) for name, value in outputs.items()}
            for row, count in enumerate(labels)
        ]

    def bound(self, adapters: Sequence[AdapterChoice], *, head: str | None = None) -> dict[str, BoundGraph]:
        """Returns the bundle's graphs by file name, with the tensors of the adapters bound to them.

        Such a graph can be run step by step, without copying its cache between steps. Its inputs are checked by ONNX
        Runtime alone.

        Args:
            adapters: The adapter or adapters of each row, as for `run`; None for the base model.
            head: As for `run`.

        Raises:
            InputError: An adapter is unknown, or there are several in a mode that runs one adapter per batch.
        """
        lease = self.lease(adapters, head=head)
        return {graph: self.bound_to(graph, lease) for graph in self._opened()}

    def lease(self, adapters: Sequence[AdapterChoice], *, head: str | None = None) -> Lease:
        """Holds adapters in memory, as they are now, until the lease is released or collected as garbage.

        Args:
            adapters: The adapter or adapters of each row, as for `run`; None for the base model.
            head: As for `run`.

        Raises:
            InputError: An adapter is unknown, or there are several in a mode that runs one adapter per batch.
        """
        self._home.check()
        return self._adapters.lease(self._rows(len(adapters), None, adapters, head))

    def joined(self, leases: Sequence[Lease]) -> Lease:
        """Returns one lease of the rows of several leases, in their order. It holds what they hold.

        Args:
            leases: Leases of this session.

        Raises:
            InputError: Their adapters differ, in a mode that runs one adapter per batch.
        """
        self._home.check()
        return self._adapters.joined(leases)

    def has_room(self, adapter: AdapterChoice, *, head: str | None = None) -> bool:
        """Returns whether a lease of this adapter would not have to wait until other leases are released.

        Args:
            adapter: As for `run`.
            head: As for `run`.
        """
        self._home.check()
        return self._adapters.has_room(chosen(adapter, head))

    def bound_to(self, graph: str, lease: Lease) -> BoundGraph:
        """Returns a graph of the bundle with the tensors of a lease bound to it.

        Args:
            graph: File name of the graph.
            lease: A lease of this session.
        """
        return BoundGraph(self._opened()[graph], self.provider, self._feeds(graph, lease), lease)

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapter: AdapterChoice = None,
        *,
        adapters: Sequence[AdapterChoice] | None = None,
        head: str | None = None,
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
        """Generates new tokens for each prompt, in one batch.

        The adapters are taken now. Loading or unloading later does not change a generation that has begun.

        The rules in the bundle's generation_config.json apply (see `generation.rules`), except those for drawing
        tokens (temperature, top_k, ...): without a `temperature`, decoding is greedy. Other fields of the file that
        would change the tokens but are not supported are named in a warning, once.

        Args:
            prompts: For each prompt, a list of token ids, of any length. If the encoder does not read text, one array
                for each prompt, without the batch axis (for Whisper: input_features).
            adapter: The adapter for all prompts: a name, or the strengths of several by their names, as for `run`; None
                for the base model.
            adapters: In mode bank, the adapter of each prompt, in place of `adapter`; None for the base model.
            head: As for `run`.
            max_new_tokens: Largest number of new tokens per prompt.
            temperature: 0 chooses the most probable token (greedy). Above 0, a token is drawn with probability
                softmax(logits / temperature).
            top_k: Draw only among this many of the most probable tokens.
            top_p: Draw only among the most probable tokens whose probabilities add up to this share, above 0 and up to
                1.
            repetition_penalty: The logits of tokens that the row already contains are divided by this (multiplied if
                they are negative). 1 for no penalty; None for the value in generation_config.json.
            seed: Seed for drawing tokens. Prompt i uses seed + i, or the i-th of several seeds, so its tokens do not
                depend on the other prompts. None for a random seed.
            stop_tokens: Token ids that end a row, in addition to the end tokens of the model.
            ignore_eos: Whether to ignore the end tokens of the model.
            prefix: Tokens that the output of an encoder-decoder begins with, in place of the token that its config
                forces (mBART: the language; Whisper: language, task and timestamps).

        Returns:
            An iterator of steps, each with one new token per prompt. A step is computed when it is requested.
            `.completions()` runs all steps, `.close()` ends the generation.

        Raises:
            InputError: An adapter is unknown, the graph has no cache, a prompt does not fit, or a setting is out of
                range.
        """
        self._opened()
        check_generates(self.bundle, self.manifest)
        settings = GenerationSettings(
            max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, stop_tokens, ignore_eos, prefix
        )
        self._note_unread(settings)
        graphs = self.bound(self._rows(len(prompts), adapter, adapters, head))
        return start(graphs, self.manifest, self.generation_config, prompts, settings)

    def statistics(self) -> dict[str | None, AdapterStatistics]:
        """Returns how often each adapter was used and loaded since the session was opened; None is the base model."""
        self._home.check()
        return self._adapters.statistics()

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the loaded adapters, besides those of the graph. In mode bank, bytes of the rows in use."""
        self._home.check()
        return self._adapters.nbytes

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """What the bundle's files say about generating: end tokens, rules, number of new tokens."""
        return read_generation_config(self.bundle)

    def close(self) -> None:
        """Frees the graphs and the adapters. Runs that have begun finish. In a fork of the process nothing is freed."""
        self._sessions = {}
        if not self._home.here:
            return
        self._adapters.clear()

    def __enter__(self) -> AdapterSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note_unread(self, settings: GenerationSettings) -> None:
        """Logs, once, the fields of generation_config.json that are not read and would change the tokens."""
        fields = unread_in(self.generation_config, settings)
        if fields and fields not in self._noted:
            self._noted.add(fields)
            _log.warning("bundle %s: generation_config.json: not read: %s", self.bundle, ", ".join(fields))

    def _opened(self) -> Mapping[str, ort.InferenceSession]:
        """Returns the graphs. A run keeps them even if the session is closed during the run."""
        self._home.check()
        if not (sessions := self._sessions):
            raise InputError(f"bundle {self.bundle}: the session is closed")
        return sessions

    @property
    def _tensors(self) -> Collection[str]:
        """Names of the adapter tensors. Callers must not pass these; they choose an adapter by its name."""
        return self._fed[self.manifest.model]

    def _rows(
        self, rows: int, adapter: AdapterChoice, adapters: Sequence[AdapterChoice] | None, head: str | None
    ) -> Sequence[AdapterKey | None]:
        """Returns the adapter of each row, from the arguments by which a caller can choose adapters."""
        if adapters is None:
            return [chosen(adapter, head)] * rows
        if adapter is not None:
            raise InputError("adapters: expected either these, one a row, or one adapter for all; found both")
        if len(adapters) != rows:
            raise InputError(f"adapters: expected {rows}, one for each row of the batch, found {len(adapters)}")
        return [chosen(row, head if is_composed(row) else None) for row in adapters]

    def _run(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: AdapterChoice,
        adapters: Sequence[AdapterChoice] | None,
        head: str | None,
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        """Returns the graph's outputs unchanged, and the number of labels of each row."""
        sessions = self._opened()
        check_inputs(inputs, self._inputs, self._tensors)
        check_tokens(inputs)
        check_positions(inputs, self.manifest.positions)
        if self._end is not None:
            check_ends(inputs["input_ids"], self._end)
        manifest = self.manifest
        rows = self._rows(next(len(value) for value in inputs.values()), adapter, adapters, head)
        with self._adapters.lease(rows) as lease:
            # The dictionary holds every array until the run is over.
            feeds = {name: _fed(value) for name, value in {**inputs, **self._feeds(manifest.model, lease)}.items()}
            with run_errors():
                values = sessions[manifest.model].run([*manifest.outputs], feeds)
        return dict(zip(manifest.outputs, values, strict=True)), lease.labels(manifest.labels)

    def _cut(self, name: str, value: np.ndarray, labels: int) -> np.ndarray:
        """Returns logits without the columns that a bank adds beyond this number of labels."""
        padded = self.manifest.mode.per_row and self.manifest.outputs[name].shape[-1] == NUM_LABELS
        return value[..., :labels] if padded else value

    def _feeds(self, graph: str, lease: Lease) -> dict[str, np.ndarray | ort.OrtValue]:
        return {name: value for name, value in lease.feeds.items() if name in self._fed[graph]}


def _fed(value: np.ndarray | ort.OrtValue) -> np.ndarray | ort.OrtValue:
    """Returns the value in a form that ONNX Runtime accepts. It does not accept arrays of bfloat16."""
    return ort_value(value) if isinstance(value, np.ndarray) and needs_ort_value(value) else value


def _fed_names(session: ort.InferenceSession, manifest: Manifest) -> frozenset[str]:
    """Returns the names of the values that this package feeds to a graph besides the caller's inputs."""
    names = {value.name for value in session.get_overridable_initializers()}
    bound = {ADAPTER_IDS, *manifest.tensors}
    return frozenset(names | {value.name for value in session.get_inputs() if value.name in bound})
