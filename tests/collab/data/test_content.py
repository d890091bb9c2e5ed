"""Splits by content: a row is on one side for all who may share it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from collab.data.content import fingerprints, sides
from collab.data.examples import Examples, concatenate, of_images, of_table, of_texts
from collab.data.ngrams import Recipe, count
from collab.data.split_config import SplitConfig
from collab.data.splits import split
from protocol.errors import DataError

SPLIT = SplitConfig(test=0.3, validation=0.2)


def rows(count_: int = 300, seed: int = 0) -> Examples:
    """Return a table of numbers and words."""
    rng = np.random.default_rng(seed)
    words = np.array([["red"], ["green"], [""]], dtype=object)[rng.integers(3, size=count_)]
    y = rng.integers(2, size=count_)
    return of_table(rng.normal(size=(count_, 3)), ("b", "a", "c"), y, words, ("colour",))


def test_the_same_inputs_are_on_the_same_side() -> None:
    """Neither label, order, site nor what other rows there are moves a row; another seed or family does."""
    one = rows()
    other = replace(one, y=1 - one.y).take(np.arange(250)[::-1])
    found = sides(one, SPLIT, 3, "signs")
    assert (sides(other, SPLIT, 3, "signs") == found[:250][::-1]).all()
    assert (sides(one, SPLIT, 4, "signs") != found).any()
    assert (sides(one, SPLIT, 3, "others") != found).any()


def test_the_shares_are_met_on_average() -> None:
    """Of 3,000 rows three in ten test and two in ten validate, within four standard errors."""
    found = sides(rows(3000), SPLIT, 1, "signs")
    for side, share in (("test", 0.3), ("validation", 0.2)):
        error = 4 * np.sqrt(share * (1 - share) / 3000)
        assert (found == side).mean() == pytest.approx(share, abs=error)


def test_columns_have_no_order_and_missing_numbers_one_form() -> None:
    """Blocks that list the same columns otherwise, or write NaN and -0 otherwise, have the same rows."""
    one = rows(5)
    turned = replace(one, numeric_NP=one.numeric_NP[:, [1, 0, 2]], numeric_names=("a", "b", "c"))
    assert fingerprints(turned) == fingerprints(one)
    zero = replace(one, numeric_NP=np.zeros((5, 3)))
    assert fingerprints(replace(one, numeric_NP=-np.zeros((5, 3)))) == fingerprints(zero)
    gap = np.full((5, 3), np.nan)
    other_gap = (gap.view(np.uint64) + 1).view(np.float64)
    assert fingerprints(replace(one, numeric_NP=gap)) == fingerprints(replace(one, numeric_NP=other_gap))
    assert len(set(fingerprints(one))) == 5


def test_images_and_texts_have_content_too() -> None:
    """Two images that differ in a pixel, and two texts that differ in a word, are two rows."""
    image_NCHW = np.zeros((2, 1, 3, 3), dtype=np.float32)
    image_NCHW[1, 0, 2, 2] = 1
    assert len(set(fingerprints(of_images(image_NCHW, np.zeros(2, dtype=np.int64))))) == 2
    texts = of_texts(count(["red dot", "blue dot", "red dot"], Recipe(buckets=64)), np.arange(3))
    one, other, again = fingerprints(texts)
    assert one == again != other


def test_a_group_stays_together() -> None:
    """Where the block names groups their cells decide, not the inputs."""
    one = rows(200)
    group_N = np.array([f"g{n % 20}" for n in range(200)], dtype=object)
    found = sides(replace(one, group_N=group_N), SPLIT, 1, "signs")
    assert all(len(set(found[group_N == group])) == 1 for group in set(group_N))


def test_a_split_by_family_keeps_what_the_file_says() -> None:
    """Given sides stay; the others are drawn by content, whatever the site is called."""
    one = rows()
    given = replace(one, split_N=np.array(["test"] * 10 + [""] * 290, dtype=object))
    found = split(given, SPLIT, 3, "north", "data", "signs")
    again = split(replace(given, y=1 - given.y), SPLIT, 3, "south", "other", "signs")
    assert set(range(10)) <= set(found.test.tolist())
    for side in ("train", "validation", "test"):
        assert getattr(found, side).tolist() == getattr(again, side).tolist()
    with pytest.raises(DataError, match="none to train on"):
        split(
            concatenate([one.take(np.array([0]))] * 3),
            SplitConfig(test=0.98, validation=0.01),
            0,
            "n",
            "",
            "s",
        )
