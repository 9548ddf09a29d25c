from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from adapter_export.errors import InputError
from adapter_export.methods import registry


def test_methods_are_found_by_name() -> None:
    assert {"bottleneck", "ia3"} <= set(registry.names())
    assert registry.names() == sorted(registry.names())
    assert all(registry.get(name).name == name for name in registry.names())


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="method 'lorra': expected one of bottleneck, ia3"):
        registry.get("lorra")


def test_a_name_is_taken_once() -> None:
    registry.names()
    with pytest.raises(ValueError, match="'ia3' is registered twice"):
        registry.register(cast("Any", SimpleNamespace(name="ia3")))
