"""Problems that are the same but for their writing: exact ones by a hash, near ones by the overlap of word triples."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence

from aflow_jax.problems.problem import Problem

# Jaccard similarity from which two texts are one. In a text of 30 words it allows for one other word.
NEAR = 0.8
SHINGLE_TOKENS = 3


def decontaminate(train: Sequence[Problem], test: Sequence[Problem]) -> tuple[list[Problem], int]:
    """Return the training problems that the test split does not hold, in order, and how many were removed.

    Removed is what equals a test problem (`content_hash`) and what is nearly one (`NearDuplicates`).
    """
    tested = {content_hash(problem) for problem in test}
    near = NearDuplicates(test)
    kept = [problem for problem in train if content_hash(problem) not in tested and near.find(problem) is None]
    return kept, len(train) - len(kept)


def content_hash(problem: Problem) -> str:
    """Return a hash of what is asked: the question and its context, whatever their case, spacing and punctuation marks.

    Operators and brackets stay, so that `x + 2` and `x - 2` are different problems.
    """
    text = "\x00".join(_normalised(part) for part in (problem.question, problem.context or ""))
    return hashlib.sha256(text.encode()).hexdigest()


class NearDuplicates:
    """Finds, among the problems added, one that nearly equals another.

    Two problems do where the Jaccard similarity of their questions' token triples, and that of their contexts', is NEAR
    or more, and their questions hold the same numbers: templates filled with other numbers are other problems, and so
    is one question about two passages.

    The search is exact. Similarity ≥ s means that the rarest ⌊(1 − s)·n⌋ + 1 of n triples, in any one order of all
    triples, meet those of the other (prefix filtering: Chaudhuri et al. 2006; Bayardo et al. 2007, §3.1), so only
    problems that share one of these are compared.
    """

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._problems: list[Problem] = []
        self._shingles: list[frozenset[int]] = []
        self._holders: dict[int, list[int]] = {}
        for problem in problems:
            self.add(problem)

    def add(self, problem: Problem) -> None:
        """Let later searches find the problem."""
        place, own = len(self._problems), shingles(problem.question)
        self._problems.append(problem)
        self._shingles.append(own)
        for shingle in _prefix(own):
            self._holders.setdefault(shingle, []).append(place)

    def find(self, problem: Problem) -> Problem | None:
        """Return the first problem added that nearly equals this one, or None."""
        own = shingles(problem.question)
        candidates = sorted({place for shingle in _prefix(own) for place in self._holders.get(shingle, ())})
        for place in candidates:
            if jaccard(own, self._shingles[place]) >= NEAR and _same_otherwise(problem, self._problems[place]):
                return self._problems[place]
        return None


def shingles(text: str) -> frozenset[int]:
    """Return 32-bit hashes of a text's runs of three tokens, words and marks; of all of it where it is shorter."""
    tokens = re.findall(r"\w+|[^\w\s]", _normalised(text))
    starts = range(max(1, len(tokens) - SHINGLE_TOKENS + 1))
    return frozenset(zlib.crc32(" ".join(tokens[start : start + SHINGLE_TOKENS]).encode()) for start in starts)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Return the share of what either set holds that both do."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _prefix(own: frozenset[int]) -> list[int]:
    """Return the triples of which a near duplicate shares one: the first in the order of their hashes."""
    # The small term guards against a product such as .8 · 5 that falls just above a whole number.
    return sorted(own)[: len(own) - math.ceil(NEAR * len(own) - 1e-9) + 1]


def _same_otherwise(one: Problem, other: Problem) -> bool:
    if _numbers(one.question) != _numbers(other.question):
        return False
    if not (one.context and other.context):
        return not (one.context or other.context)
    return jaccard(shingles(one.context), shingles(other.context)) >= NEAR


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")))


def _normalised(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s.,;:!?\"'`]+", " ", folded).strip()
