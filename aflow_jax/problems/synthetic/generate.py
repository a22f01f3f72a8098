"""Draw problems from the templates of a domain."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from aflow_jax.errors import UserError
from aflow_jax.problems.overlap import content_hash
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import DOMAINS
from aflow_jax.problems.synthetic import code, math, qa

SPLITS = ("train", "test")

# A problem is of the test split where its content's hash falls below this share, whatever seed and count drew it:
# no problem can be in both splits.
_TEST_SHARE = 0.3
_ATTEMPTS = 200

# A small model on a CPU reads every problem: long examples are drawn again.
_QUESTION_WORDS = 60

_TEMPLATES = {"math": math.TEMPLATES, "code": code.TEMPLATES, "qa": qa.TEMPLATES}


def generate_problems(domain: str | None, count: int, seed: int, split: str = "train") -> list[Problem]:
    """Return `count` distinct problems of a domain, or of all three in turn where the domain is None.

    The same arguments give the same problems, a larger count only adds to them, and no problem of one split, of
    any seed, is in the other.

    Raises:
        UserError: an unknown domain or split, or more problems than the templates hold.
    """
    if domain is not None and domain not in DOMAINS:
        raise UserError(f"unknown domain {domain!r}: use one of {', '.join(DOMAINS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: use train or test")
    if count < 0:
        raise UserError(f"the count of problems is {count}: use 0 or more")
    domains = DOMAINS if domain is None else (domain,)
    streams = [_stream(name, seed, split) for name in domains]
    return list(itertools.islice(itertools.chain.from_iterable(zip(*streams, strict=True)), count))


def split_of(problem: Problem) -> str:
    """Return the split that a generated problem belongs to: a function of its question alone."""
    question = content_hash(replace(problem, context=None))
    return "test" if int(question[:8], 16) < _TEST_SHARE * 2**32 else "train"


def _stream(domain: str, seed: int, split: str) -> Iterator[Problem]:
    """Yield distinct problems without end, going through the templates in a fresh order each time round."""
    random = Random(f"{seed}/{domain}/{split}")
    templates = list(_TEMPLATES[domain])
    seen: set[str] = set()
    while templates:
        random.shuffle(templates)
        for template in tuple(templates):
            problem = _fresh(domain, template, random, seen, split)
            if problem is None:
                templates.remove(template)
                continue
            yield replace(problem, id=f"synthetic_{domain}/{split}/{seed}/{len(seen)}")
    raise UserError(f"the {domain} templates hold only {len(seen)} {split} problems: ask for fewer")


def _fresh(domain: str, template, random: Random, seen: set[str], split: str) -> Problem | None:
    """Return a problem of the split that is not among those seen, or None where the template is used up."""
    for _ in range(_ATTEMPTS):
        problem = _problem(domain, template(random))
        # Questions differ even where contexts do, so that a question alone tells which problem it is.
        fits = len(problem.question.split()) <= _QUESTION_WORDS
        if fits and problem.question not in seen and split_of(problem) == split:
            seen.add(problem.question)
            return problem
    return None


def _problem(domain: str, drawn) -> Problem:
    source = f"synthetic_{domain}"
    if domain == "math":
        question, answer = drawn
        return Problem(question, answer, source, domain)
    if domain == "qa":
        context, question, answer = drawn
        return Problem(question, answer, source, domain, context=context)
    return Problem(drawn.question, drawn.answer, source, domain, entry_point=drawn.entry_point, test=drawn.test)
