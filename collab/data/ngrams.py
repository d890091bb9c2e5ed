"""Texts as counts of hashed n-grams, and their TF-IDF from document counts that merge over sites.

    tf-idf_ib = n_ib · (ln((1 + N) / (1 + d_b)) + 1),   each row then divided by its length

n_ib: how often text i has an n-gram of bucket b; d_b: in how many of all sites' N train texts the
bucket occurs. Buckets need no common vocabulary, which would tell every site's words to all.

    Feature Hashing for Large Scale Multitask Learning
        Kilian Weinberger, Anirban Dasgupta, John Langford, Alex Smola, Josh Attenberg. ICML 2009.

Document counts tell which buckets, so about which words, a site's texts have; ``idf = false`` lets
nothing out. Without hashing's signs two words of one bucket add up, and counts stay counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from protocol.errors import DataError, MessageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_BUCKETS: Final = 2**16
_MAX_COUNT: Final = int(np.iinfo(np.uint16).max)
# One letter is a word too: "i" and "a" tell questions from orders.
_WORD: Final = r"(?u)\b\w+\b"

Count = Annotated[int, Field(ge=0, le=2**53)]
Length = Annotated[int, Field(ge=1, le=8)]


class Recipe(BaseModel):
    """How a text becomes numbers: ``grams`` of a ``[data.NAME]`` block; all sites need the same.

    Attributes:
        buckets: how many numbers a text becomes.
        unit: word, or character where a language puts no spaces between words.
        ngrams: the shortest and the longest run of units that is counted.
        idf: whether rare n-grams count more, which takes document counts from the sites.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: int = Field(4096, ge=2, le=MAX_BUCKETS)
    unit: Literal["word", "character"] = "word"
    ngrams: tuple[Length, Length] = (1, 1)
    idf: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> Recipe:
        if self.ngrams[0] > self.ngrams[1]:
            raise ValueError("ngrams is [shortest, longest]")
        return self


class TextStatistics(BaseModel):
    """One site's, or after ``merge_texts`` all sites', document counts of train texts.

    Attributes:
        recipe: how the texts were counted.
        texts: N, how many train texts; 0 where the recipe has no idf.
        documents: d_b, in how many of them each bucket occurs; empty where the recipe has no idf.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    texts: Count = 0
    documents: Annotated[tuple[Count, ...], Field(max_length=MAX_BUCKETS)] = ()

    @model_validator(mode="after")
    def _of_the_recipe(self) -> TextStatistics:
        if len(self.documents) != (self.recipe.buckets if self.recipe.idf else 0):
            raise ValueError("documents must have one count a bucket, and none without idf")
        if max(self.documents, default=0) > self.texts:
            raise ValueError("a bucket cannot occur in more texts than there are")
        return self


@dataclass(frozen=True, repr=False, eq=False)
class Grams:
    """N texts as counts of hashed n-grams [N, B], sparse uint16; the texts themselves are gone.

    Sparse, because a sentence fills ten of 4,096 buckets: 1.3 MB for 15,000 where dense counts take 123.
    """

    counts_NB: csr_array
    recipe: Recipe

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, B)."""
        rows, buckets = self.counts_NB.shape
        return int(rows), int(buckets)

    def __getitem__(self, indices: NDArray[Any]) -> Grams:
        return Grams(self.counts_NB[indices], self.recipe)

    def statistics(self) -> TextStatistics:
        """Return the document counts of these texts: hand in train rows alone."""
        if not self.recipe.idf:
            return TextStatistics(recipe=self.recipe)
        documents_B = np.bincount(self.counts_NB.indices, minlength=self.recipe.buckets)
        return TextStatistics(recipe=self.recipe, texts=len(self), documents=tuple(documents_B.tolist()))


def count(texts: Sequence[str], recipe: Recipe) -> Grams:
    """Return the texts' counts. Letters are lower case, and one letter has one code (Unicode NFKC)."""
    from scipy.sparse import csr_array  # noqa: PLC0415 - whoever only reads a recipe needs none of it
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415 - a second to import

    vectorizer = HashingVectorizer(
        preprocessor=_plain,
        analyzer="char" if recipe.unit == "character" else "word",
        token_pattern=_WORD,
        ngram_range=recipe.ngrams,
        n_features=recipe.buckets,
        alternate_sign=False,
        norm=None,
    )
    counts_NB = csr_array(vectorizer.transform(texts))
    counts_NB.sum_duplicates()
    counts_NB.data = np.minimum(counts_NB.data, _MAX_COUNT).astype(np.uint16)
    return Grams(counts_NB, recipe)


def join(parts: Sequence[Grams]) -> Grams:
    """Return the rows of all parts, in order.

    Raises:
        DataError: they were counted by other recipes.
    """
    from scipy.sparse import csr_array, vstack  # noqa: PLC0415

    first = parts[0]
    if any(part.recipe != first.recipe for part in parts):
        raise DataError(
            "cannot join texts whose grams differ: give all the same buckets, unit, ngrams and idf"
        )
    return Grams(csr_array(vstack([part.counts_NB for part in parts])), first.recipe)


def merge_texts(parts: Sequence[TextStatistics]) -> TextStatistics:
    """Return the document counts of all parts' texts together, whatever the order of the parts.

    Raises:
        MessageError: they were counted by other recipes.
    """
    first = parts[0]
    for part in parts:
        if part.recipe != first.recipe:
            raise MessageError(f"texts are counted by {part.recipe!r}, others by {first.recipe!r}")
    documents = zip(*(part.documents for part in parts), strict=True)
    return TextStatistics(
        recipe=first.recipe,
        texts=sum(part.texts for part in parts),
        documents=tuple(map(sum, documents)),
    )


def tfidf(grams: Grams, statistics: TextStatistics) -> csr_array:
    """Return [N, B] sparse float32, each row of length 1, or 0 for a text without an n-gram.

    Raises:
        DataError: the texts were counted by another recipe than the statistics.
    """
    if grams.recipe != statistics.recipe:
        raise DataError(f"texts are counted by {grams.recipe!r}, the model wants {statistics.recipe!r}")
    weighted_NB = grams.counts_NB.astype(np.float32)
    if statistics.recipe.idf:
        weighted_NB.data *= _idf(statistics)[weighted_NB.indices]
    length_N = np.sqrt(weighted_NB.power(2).sum(axis=1))
    weighted_NB.data /= np.repeat(length_N, np.diff(weighted_NB.indptr))
    return weighted_NB


def _idf(statistics: TextStatistics) -> NDArray[np.float32]:
    documents_B = np.asarray(statistics.documents, dtype=np.float64)
    return (np.log((1 + statistics.texts) / (1 + documents_B)) + 1).astype(np.float32)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()
