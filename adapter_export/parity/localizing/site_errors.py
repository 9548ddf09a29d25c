"""The errors at the sites of adapters, in a case that was searched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapter_export.parity.localizing.comparison import Paired
from adapter_export.parity.localizing.departure import ParitySiteError
from adapter_export.parity.localizing.module_names import ModuleNames
from adapter_export.parity.localizing.places import AFTER, OUTPUT, Place
from adapter_export.sites import Site


def site_errors(
    pairs: Sequence[Paired], first: Paired | None, sites: Iterable[Site], names: ModuleNames, run: str
) -> list[ParitySiteError]:
    """Returns the error at each site, at the outputs, and at the first place that departs, in the order of computation.

    At a site it is the error of the value after the adapter. Where the graph has no such value, because the adapter is
    merged, it is that of the output of the module. Of several uses of a module, the worst counts.

    Args:
        pairs: The values of one run.
        first: The first pair that departs; None if all agree.
        sites: The sites of all adapters.
        names: The modules of the model.
        run: The run in words.
    """
    after = {names.module(pair.place) for pair in pairs if pair.place.part == AFTER}
    modules = {names.path(site.module) for site in sites} - after

    def is_shown(place: Place) -> bool:
        at_site = place.part == AFTER or (place.part == OUTPUT and names.module(place) in modules)
        return place.final or at_site or (first is not None and place == first.place)

    worst: dict[str, Paired] = {}
    for pair in pairs:
        if is_shown(pair.place):
            name = names.shown(pair.place)
            worst[name] = max(worst.get(name, pair), pair, key=lambda item: item.error - item.limit)
    return [ParitySiteError(name, run, pair.error, pair.limit) for name, pair in worst.items()]
