"""The entry: finds the first place at which a bundle that failed departs from PyTorch, and the likely cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from adapter_export import tasks
from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.manifest import Manifest, SiteRole
from adapter_export.bundle.modes import Mode
from adapter_export.errors import AdapterExportError
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import GreedyCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.measure import OFF
from adapter_export.parity.criteria.retries import ROUNDINGS
from adapter_export.parity.localizing.causes import likely_cause
from adapter_export.parity.localizing.comparison import Comparison, Paired, first_departure
from adapter_export.parity.localizing.counterparts import Counterparts, first_without
from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture, ParitySiteError, in_words
from adapter_export.parity.localizing.evidence import Evidence
from adapter_export.parity.localizing.graph_run import GraphRun
from adapter_export.parity.localizing.graph_values import GraphValues
from adapter_export.parity.localizing.module_names import ModuleNames
from adapter_export.parity.localizing.patterns import (
    COST,
    GENERATION,
    NOT_REPEATED,
    SHAPE,
    costs_only,
    not_run,
    pattern_of,
    read_otherwise,
)
from adapter_export.parity.localizing.places import INPUT, Place
from adapter_export.parity.localizing.probed_session import ProbedSession
from adapter_export.parity.localizing.pytorch_values import PyTorchValues, run_watched
from adapter_export.parity.localizing.site_errors import site_errors
from adapter_export.parity.localizing.unpaired import unpaired
from adapter_export.parity.pytorch_models import PyTorchModels
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.report import NO_ADAPTER, ParityReport, ParityResult
from adapter_export.runtime.generation.prepare import generates
from adapter_export.sites import Port, Site

Arrays = Mapping[str, np.ndarray]

# Checks that compare our own models with those of another library. The values of a graph are compared with our own.
_READING = ("base", "witness", "record")


def locate(report: ParityReport, manifest: Manifest, models: PyTorchModels) -> ParityDeparture | None:
    """Finds where a bundle departs from PyTorch, in the smallest case that failed.

    Args:
        report: The report of the check.
        manifest: The manifest of the bundle.
        models: The models in PyTorch.

    Returns:
        The departure; None if no case failed. If the failed cases have a record alone, it says so.
    """
    failed = [item for item in report.results if item.judgement.verdict is Verdict.FAIL]
    pairable = [item for item in failed if item.adapter in (NO_ADAPTER, *models.adapters)]
    if not pairable:
        return unpaired(report.bundle, report.results)
    # Of what only the bits cost, no value inside tells more.
    item = min([item for item in pairable if not costs_only(item)] or pairable, key=_size)
    reading = next((check for check in report.checks if check.name in _READING and check.verdict is Verdict.FAIL), None)
    if reading is not None:
        return ParityDeparture(item.adapter, item.case.name, "with the adapter", read_otherwise(reading.name))
    if isinstance(item.case, GreedyCase):
        return ParityDeparture(
            item.adapter, item.case.name, "with the adapter", GENERATION, "the loop of the generation"
        )
    if costs_only(item):
        return ParityDeparture(item.adapter, item.case.name, in_words(item.adapter != NO_ADAPTER), COST)
    return _Search(report, manifest, models, item).departure()


def _size(item: ParityResult) -> tuple[bool, bool, bool, int]:
    """Returns what the smallest case has least of: first of what hides or adds causes, then of values."""
    case = item.case
    # A single token attends to itself alone, whatever the queries and keys are.
    return isinstance(case, GreedyCase), case.padded, case.length == 1, case.batch * max(1, case.length)


class _Search:
    """Looks for the first departure in one case."""

    def __init__(self, report: ParityReport, manifest: Manifest, models: PyTorchModels, item: ParityResult) -> None:
        self._report, self._manifest, self._models, self._item = report, manifest, models, item
        self._inputs = models.inputs(item.case)
        self._comparison = Comparison(manifest, self._inputs)
        self._graphs = {file: GraphValues(report.bundle, file, manifest) for file in manifest.graphs}
        self._names = ModuleNames(models.own.base.module)
        merged = models.adapters.values() if manifest.mode is Mode.MERGED else ()
        places = [place for graph in self._graphs.values() for place in graph.places]
        self._places = list(self._names.without_merged_inputs(places, merged))
        self._sites = [Site(info.module, Port(info.port)) for info in manifest.sites if info.role is SiteRole.ADAPTER]
        self._name = None if item.adapter == NO_ADAPTER else item.adapter
        self._adapter = None if self._name is None else models.adapters[self._name]
        self._errors: list[ParitySiteError] = []

    def departure(self) -> ParityDeparture:
        """Returns the first departure: without the adapter, if the graph departs there already."""
        on = self._name is not None
        fails_without = any(reason.startswith(OFF) for reason in self._item.judgement.reasons)
        states = ([False, True] if fails_without else [True]) if on else [False]
        folder, provider = self._report.bundle, self._report.provider
        with open_bundle_runner(folder, self._manifest, self._models.adapters, provider, ProbedSession) as runner:
            # A text that is read at once has one value for each of PyTorch. If they agree, the cache must be wrong.
            for state, in_steps in product(states, (False, True) if generates(self._manifest) else (True,)):
                run = GraphRun(runner, self._graphs, self._inputs, self._name, on=state, in_steps=in_steps)
                try:
                    found = self._in_state(run, on=state)
                except AdapterExportError as error:
                    return self._not_run(str(error), on=state)
                if found is not None:
                    return found
        return self._departure(states[-1], NOT_REPEATED)

    def _in_state(self, run: GraphRun, *, on: bool) -> ParityDeparture | None:
        names: dict[str, dict[str, None]] = {}
        for place in self._places:
            names.setdefault(place.graph, {})[place.value] = None
        actual = run.values(names)
        own = self._watched(self._models.own, on=on)
        targets = [self._watched(self._models.target, on=on)]
        pairs = self._pairs(actual, own, targets)
        first = first_departure(pairs, self._graphs)
        if first is not None and not first.clear and not self._manifest.quantize.used:
            # As the judge does where the error is small: a single rounding does not measure what the dtype can reach.
            targets += [self._watched(self._models.target, on=on, rounding=number) for number in range(1, ROUNDINGS)]
            pairs = self._pairs(actual, own, targets)
            first = first_departure(pairs, self._graphs)
        adapted = [*self._sites, *(self._adapter.sites if self._adapter is not None else ())]
        self._errors += site_errors(pairs, first, adapted, self._names, run.words)
        if first is None:
            return None
        node = self._first_node(run, first, pairs, on=on)
        if first.place.final and first.actual.shape != first.expected.shape:
            # The module that computes the output, where one does, is the better name.
            makers = [place for place in self._places if place.graph == first.place.graph and not place.final]
            maker = next((place for place in makers if place.value == first.place.value), first.place)
            first = replace(first, place=maker)
            return self._departure(on, pattern_of(self._report, self._item) or SHAPE, first, node)
        evidence = Evidence(
            first,
            own,
            self._models.own.base.module,
            self._module(first.place),
            self._adapter,
            on,
            self._models.adapters,
            self._comparison,
            lambda inputs: self._names.values(self._watched(self._models.own, inputs, on=on), first.place),
            self._inputs,
            self._stored(),
            self._graphs[first.place.graph].constant,
            tuple(run.shape for run in actual[first.place.graph, first.place.value]),
        )
        return self._departure(on, likely_cause(evidence, pattern_of(self._report, self._item)), first, node)

    def _watched(
        self, reference: Reference, inputs: Arrays | None = None, *, on: bool, rounding: int = 0
    ) -> PyTorchValues:
        given = self._inputs if inputs is None else inputs
        return run_watched(reference, given, self._adapter, self._sites, on=on, rounding=rounding)

    def _pairs(
        self,
        actual: Mapping[tuple[str, str], Sequence[np.ndarray]],
        own: PyTorchValues,
        targets: Sequence[PyTorchValues],
    ) -> list[Paired]:
        """Returns the pairs of all places, in the order of computation."""
        pairs = []
        for place in self._places:
            runs, expected = actual.get((place.graph, place.value), []), self._names.values(own, place)
            if self._has_no_labels(place.value):
                # The task head of no adapter is empty.
                expected = [value[..., :0] for value in expected] if place.final else []
            rounded = [self._names.values(target, place) for target in targets]
            if place.final and expected and runs and runs[0].shape != expected[0].shape:
                pairs.append(Paired(place, runs[0], expected[0], math.inf, 0.0))
            elif pair := self._comparison.pair(place, runs, expected, rounded):
                pairs.append(pair)
        return pairs

    def _first_node(self, run: GraphRun, first: Paired, pairs: Sequence[Paired], *, on: bool) -> str:
        """Returns the first node that departs, in words."""
        graph = self._graphs[first.place.graph]
        agreed = {pair.place.value for pair in pairs if pair.agrees and pair.place.graph == graph.file}
        if first.place.value in agreed:
            # The value is right, and the node that reads it should read another one.
            return graph.node_of(first.place.reader or first.place.value)
        between = graph.behind(first.place.value, agreed)
        if len(between) == 1:
            return graph.node_of(first.place.value)
        found = run.values({graph.file: between})
        # Of quantized weights, only PyTorch with the same weights has equal values.
        reference = self._models.target if self._manifest.quantize.used else self._models.own
        counterparts = Counterparts(reference, self._inputs, self._adapter, on=on)
        runs = {name: found.get((graph.file, name), ()) for name in between}
        return graph.node_of(first_without(between, runs, graph.reads, counterparts, first.limit))

    def _has_no_labels(self, output: str) -> bool:
        """Whether an output has the labels of a task head that neither the base model nor the adapter has."""
        headless = self._manifest.labels is None and bool(self._manifest.heads)
        has_head = self._adapter is not None and bool(self._adapter.head)
        return headless and not has_head and output == tasks.get(self._manifest.task).output

    def _not_run(self, message: str, *, on: bool) -> ParityDeparture:
        text = " ".join(message.split())
        node, cause = not_run(text)
        own = self._name is not None and f"adapter {self._name}:" in text
        return replace(self._departure(on, cause, node=node), site=f"the file of adapter {self._name}" if own else None)

    def _module(self, place: Place) -> str | None:
        """Returns the path of the module that computes the value at a place; None if none does alone."""
        if place.final or place.part == INPUT:
            return None
        return self._names.module(place)

    def _stored(self) -> Arrays:
        """Returns the tensors that the bundle has for the adapter, by name."""
        if self._name is None or self._manifest.mode is Mode.MERGED:
            return {}
        info = self._manifest.adapter(self._name)
        if info.file is None:
            constants = {name: self._graphs[self._manifest.model].constant(name) for name in self._manifest.tensors}
            return {name: value for name, value in constants.items() if value is not None}
        folder = self._report.bundle
        return read_adapter_file(folder / info.file, self._manifest.base.sha256, info.sha256, folder)

    def _departure(
        self, on: bool, cause: ParityCause, first: Paired | None = None, node: str | None = None
    ) -> ParityDeparture:
        return ParityDeparture(
            adapter=self._item.adapter,
            case=self._item.case.name,
            state=in_words(on),
            cause=cause,
            site=self._names.shown(first.place) if first else None,
            part=self._names.part(first.place) if first else None,
            graph=first.place.graph if first else None,
            node=node,
            error=first.error if first else None,
            limit=first.limit if first else None,
            sites=tuple(self._errors),
        )
