"""How often the right place is named, for wrong bundles that the search was not made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import Exported
from tests.parity.localizing.later_mutants import FIRST, SECOND
from tests.parity.localizing.located import Located
from tests.parity.localizing.page import check_page, row
from tests.parity.planted_sites import planted_site


@pytest.mark.slow
def test_the_named_site_is_the_planted_one(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    located = Located()
    for table, mutants in (("first", FIRST), ("second", SECOND)):
        rows, right = [], 0
        for number, mutant in enumerate(mutants):
            exported: Exported = request.getfixturevalue(mutant.bundle)
            departure = located.departure(mutant, exported, tmp_path / f"{table}-{number}")
            planted = planted_site(mutant, exported)
            rows.append(row(mutant.name, planted, departure))
            assert departure is not None
            # Errors are told by site, that of the named one included.
            assert any(item.site == departure.site and item.error > item.limit for item in departure.sites), mutant.name
            right += departure.site == planted
        print("\n".join(rows))
        assert right >= 0.9 * len(mutants)
        check_page(table, rows)
