"""The problems of a run: read or made, held-out ones kept apart, and unsound ones left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.clients import Say
from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.paths import found
from aflow_jax.problems import Problem, decontaminate, generate_problems, load_problems
from aflow_jax.references import default_cache, describe, unsound_problems
from aflow_jax.sandbox import configure_sandbox


@dataclass(frozen=True)
class ProblemSets:
    """Training problems and held-out ones; no problem is in both."""

    train: list[Problem]
    test: list[Problem]


def load_problem_sets(config: Config, say: Say) -> ProblemSets:
    """Read or generate the problems, and take the held-out ones out of the training set."""
    if config.synthetic_data:
        train = generate_problems(None, config.synthetic_data.train, config.seed, split="train")
        test = generate_problems(None, config.synthetic_data.test, config.seed, split="test")
    else:
        train = load_problems(_existing("train_dataset", config.train_dataset))
        test = load_problems(_existing("test_dataset", config.test_dataset)) if config.test_dataset else []
    train, removed = decontaminate(train, test)
    if not train:
        raise UserError("train_dataset: every problem is in test_dataset too, so none is left to train on")
    if config.evaluation.problems:
        test = test[: config.evaluation.problems]
    say(f"problems: {len(train)} to train on, {len(test)} held out; {removed} removed from training as held out")
    return ProblemSets(train, test)


async def without_unsound(config: Config, problems: ProblemSets, say: Say) -> ProblemSets:
    """Return the problem sets without the code problems whose own answers fail their tests, and say which these are.

    Raises:
        UserError: the sandbox asked for is not here, or nothing is left to train on.
    """
    if config.synthetic_data:
        return problems
    sound = {id(problem) for problem in await sound_problems(config, [*problems.train, *problems.test], say)}
    train, test = ([one for one in part if id(one) in sound] for part in (problems.train, problems.test))
    if not train:
        raise UserError("train_dataset: no problem is left whose own answer passes its tests")
    return ProblemSets(train, test)


async def sound_problems(config: Config, problems: Sequence[Problem], say: Say) -> list[Problem]:
    """Return the problems without those whose own answers fail their tests, and say which these are.

    Raises:
        UserError: the sandbox asked for is not here.
    """
    if not config.check_references or all(problem.test is None for problem in problems):
        return list(problems)
    configure_sandbox(config.sandbox)
    unsound = await unsound_problems(problems, default_cache())
    if unsound:
        say(f"left out, as their own answers fail their tests: {describe(unsound)}")
    bad = {id(one.problem) for one in unsound}
    return [problem for problem in problems if id(problem) not in bad]


def _existing(key: str, path: str) -> Path:
    file = found(path)
    if not file.is_file():
        raise UserError(
            f"{key} {path}: no such file: give a JSONL file of problems, or set synthetic_data to generate some"
        )
    return file
