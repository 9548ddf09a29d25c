"""The places of a graph: values that PyTorch has as well, found by the names of modules and sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.architectures.renames import canonical
from adapter_export.bundle.manifest import Manifest, SiteRole
from adapter_export.grafting.modules import first_uses
from adapter_export.naming import DOMAIN
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.grafting.dialects import Dialect

BEFORE, AFTER, OUTPUT, INPUT = "before the adapter", "after the adapter", "output", "input"


@dataclass(frozen=True)
class Place:
    """A value that the graph and PyTorch both have.

    Attributes:
        graph: File of the graph.
        value: Name of the value in it.
        name: Name of the site, path of the module as the graph tells it, or name of the model's output.
        part: BEFORE or AFTER at a site; OUTPUT or INPUT of a module.
        use: Which use of the module it is, from 0, if the model runs it several times.
        uses: How often this graph uses the module.
        final: Whether it is an output of the model.
        reader: Of an INPUT, the value that the node computes which reads it; empty otherwise.
    """

    graph: str
    value: str
    name: str
    part: str = OUTPUT
    use: int = 0
    uses: int = 1
    final: bool = False
    reader: str = ""


class ModulePlaces:
    """The inputs and outputs of the modules in a graph."""

    def __init__(self, file: str, nodes: Sequence[ir.Node], named: Mapping[ir.Node, str], model_type: str) -> None:
        """Finds the modules.

        Args:
            file: File of the graph.
            nodes: The nodes that outputs depend on, in their order.
            named: The path of the module of each node, as the graph tells it.
            model_type: The `model_type` of the base model.
        """
        self._file, self._nodes, self._named = file, nodes, named
        first = first_uses(set(named.values()))
        uses: dict[str, list[str]] = {}
        for path in dict.fromkeys(outer for node in nodes for outer in _and_outer(named[node])):
            uses.setdefault(_first_of(path, first), []).append(path)
        # For each path, containers included: the module, which of its uses it is, and how many there are.
        self._uses = {
            path: (canonical(model_type, whole), number, len(paths))
            for whole, paths in uses.items()
            for number, path in enumerate(paths)
        }

    def outputs(self, given: Sequence[ir.Value]) -> Iterator[Place]:
        """Yields the last value of each module that nodes outside of it read, containers before what they contain.

        Args:
            given: The outputs of the graph.
        """
        last: dict[str, ir.Value] = {}
        known = set(self._nodes)
        for node in self._nodes:
            for value in node.outputs:
                users = [user for user, _ in value.uses() if user.op_type != "Shape" and user in known]
                for outer in _and_outer(self._named[node]):
                    if value in given or any(not _inside(self._named[user], outer) for user in users):
                        last[outer] = value
        for path in sorted(last, key=lambda path: path.count(".")):
            name, use, count = self._uses[path]
            yield Place(self._file, str(last[path].name), name, OUTPUT, use, count)

    def inputs(self, carries: Callable[[ir.Value], bool], sites: Mapping[str, Port]) -> Iterator[Place]:
        """Yields what each module without modules inside of it reads, behind an adapter at its input if there is one.

        A norm that an adapter uses inside reads several values, and is left out.

        Args:
            carries: Whether a value is computed from the contents of the model's inputs.
            sites: The sites of adapters, by name.
        """
        seen = {outer for path in self._uses for outer in _and_outer(path)[:-1]}
        adapters = {node for node in self._nodes if node.domain == DOMAIN}
        for node in self._nodes:
            path = self._named[node]
            for value in node.inputs if path and path not in seen and node not in adapters else ():
                maker = None if value is None else value.producer()
                if value is None or maker is None or not carries(value):
                    continue
                name, use, count = self._uses[path]
                site = next((site for site in sites if _ends_with(f"{name}.input", site)), None)
                if self._named[maker] == path and site is None:
                    continue
                seen.add(path)
                if site is not None and sites[site] is Port.NORM:
                    break
                part = INPUT if site is None else AFTER
                reader = str(node.outputs[0].name)
                yield Place(self._file, str(value.name), site or name, part, use, count, reader=reader)
                break


def named_nodes(nodes: Iterable[ir.Node], dialect: Dialect) -> dict[ir.Node, str]:
    """Returns the path of the module of each node.

    A node that tells none, between nodes that do, belongs to the module of the first one that it reads.
    """
    named: dict[ir.Node, str] = {}
    for node in nodes:
        path = dialect.path_of(node)
        read_by = [user for value in node.outputs for user, _ in value.uses()]
        if not path and not node.metadata_props and any(dialect.path_of(user) for user in read_by):
            makers = [value.producer() for value in node.inputs if value is not None]
            path = next((named[maker] for maker in makers if maker is not None and named.get(maker)), "")
        named[node] = path
    return named


def site_places(model: ir.Model, manifest: Manifest, file: str) -> Iterator[Place]:
    """Yields the places before and after the adapters of each site.

    Several adapters of different operators may be at one site, one after the other.
    """
    sites = {
        f"{name}.{info.op_name}": name
        for info in manifest.sites
        if info.role is SiteRole.ADAPTER
        for name in (Site(info.module, Port(info.port)).name,)
    }
    nodes: dict[tuple[str, int], list[ir.Node]] = {}
    for node in model.graph:
        name, _, number = (node.name or "").partition("#")
        if node.domain == DOMAIN and name in sites:
            nodes.setdefault((sites[name], int(number or 1) - 1), []).append(node)
    uses = Counter(site for site, _ in nodes)
    for (site, use), own in nodes.items():
        arguments = [value.name for value in model.functions[own[0].op_identifier()].inputs]
        y = own[0].inputs[arguments.index("y")]
        if y is not None and y.producer() is not None:
            yield Place(file, str(y.name), site, BEFORE, use, uses[site])
        yield Place(file, str(own[-1].outputs[0].name), site, AFTER, use, uses[site])


def _first_of(path: str, first: Mapping[str, str]) -> str:
    """Returns the path of the first use of a module, which may be a container of modules with nodes."""
    if path in first:
        return first[path]
    inner = next((own for own in first if own.startswith(f"{path}.")), path)
    return ".".join(first.get(inner, inner).split(".")[: path.count(".") + 1])


def _and_outer(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _ends_with(path: str, end: str) -> bool:
    """Whether a path is that of a site, whatever it begins with."""
    return path == end or path.endswith(f".{end}")


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")
