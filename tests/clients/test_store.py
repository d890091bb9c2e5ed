"""The bounded memory: least recently used goes first, and what was made of a thing goes with it."""

from __future__ import annotations

import numpy as np
import torch

from clients.store import Store, size_of
from collab.data.examples import Examples, of_table
from collab.training import Rows


def _examples(rows: int = 4) -> Examples:
    return of_table(np.zeros((rows, 2)), ("a", "b"), np.zeros(rows, dtype=np.int64))


def test_what_was_used_longest_ago_goes_first() -> None:
    """Reading counts as use; the sum of sizes never passes the bound."""
    store = Store(max_bytes=100)
    for key in "abc":
        store.put(key, None, np.zeros(4))  # 32 bytes
    assert store.get("a", None) is not None
    store.put("d", None, np.zeros(4))
    assert store.used == 96
    assert [key for key in "abcd" if store.get(key, None) is not None] == ["a", "c", "d"]
    store.put("e", None, np.zeros(13))  # more than all
    assert store.get("e", None) is None
    assert store.used == 96


def test_another_stamp_is_another_thing() -> None:
    """What a changed file gave goes when it is asked for under the new stamp."""
    store = Store(max_bytes=100)
    store.put("a", 1, np.zeros(4))
    assert store.get("a", 2) is None
    assert store.used == 0
    assert store.get("a", 1) is None


def test_what_was_made_of_a_thing_goes_with_it() -> None:
    """Nothing is kept alive, or found, by the number of an object that is gone."""
    store = Store(max_bytes=1000)
    source = _examples()
    store.put("source", None, source)
    store.put((id(source), "x"), None, torch.zeros(8), source)
    assert store.used == size_of(source) + 32
    del source
    assert store.used > 32
    store.drop("source")
    assert store.used == 0


def test_clearing_takes_all() -> None:
    """Also what goes because its source went."""
    store = Store(max_bytes=1000)
    for name in ("one", "two"):
        source = _examples()
        store.put(name, None, source)
        store.put((name, "x"), None, torch.zeros(8), source)
    del source
    store.clear()
    assert store.used == 0
    store.put("a", None, np.zeros(4))
    assert store.used == 32


def test_a_tensor_that_somebody_wrote_in_is_not_handed_out() -> None:
    """Also by way of a view, as a model that works in place would write in its block of rows."""
    store = Store(max_bytes=1000)
    rows = Rows(torch.ones(4, 2), torch.zeros(4))
    store.put("rows", None, rows)
    assert store.get("rows", None) is rows
    torch.relu_(torch.split(rows.x, 2)[0])
    assert store.get("rows", None) is None


def test_texts_count_for_more_than_their_pointers() -> None:
    """A column of texts takes more than eight bytes a cell."""
    plain = _examples()
    categorical = of_table(
        np.zeros((4, 2)), ("a", "b"), plain.y, np.full((4, 3), "x", dtype=object), ("c", "d", "e")
    )
    assert size_of(categorical) - size_of(plain) == 12 * (8 + 64)
