"""Supervised stages: which rollouts are learnt, in which order, and where a stage goes on."""

from collections import deque
from types import SimpleNamespace

from aflow_jax.llm import Budget
from aflow_jax.runs import Place
from aflow_jax.training.stages import SupervisedStage, best_rollouts, steps_made
from aflow_jax.training.state import RunState
from aflow_jax.workflow import parse

PLAIN, REVIEWED = parse("Custom"), parse("Custom -> Review ? Revise : done")


def rollout(name: str, workflow, correctness: float, reward: float) -> SimpleNamespace:
    return SimpleNamespace(name=name, workflow=workflow, grade=SimpleNamespace(correctness=correctness, reward=reward))


def test_of_each_problem_the_best_right_workflows_are_kept_each_once() -> None:
    rollouts = [
        rollout("wrong", PLAIN, 0.7, 0.9),
        rollout("right", PLAIN, 1.0, 0.8),
        rollout("better", REVIEWED, 1.0, 0.95),
        rollout("again", REVIEWED, 1.0, 0.95),
        *(rollout("none", None, 0.0, 0.0) for _ in range(4)),
    ]
    assert [one.name for one in best_rollouts(rollouts, 4, keep=1)] == ["better"]
    assert [one.name for one in best_rollouts(rollouts, 4, keep=3)] == ["better", "right"]


STAGE = SupervisedStage(
    name="rejection_sampling", rounds=2, steps=3, batch_size=2, settings=None, pairs=None, seed="7/stage"
)


class Letters:
    """Stands for the policy: a token for each letter."""

    def answer_tokens(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def prompt_tokens(self, problem: str) -> list[int]:
        return [ord(letter) for letter in problem]


def test_the_batches_of_a_round_follow_from_its_seed_and_number() -> None:
    pairs = [("ab", "c"), ("d", "ef"), ("g", "h")]
    tokens = [[make().tokens.tolist() for make in STAGE.batches(number, pairs, Letters())] for number in (1, 1, 2)]
    assert len(tokens[0]) == 3
    assert tokens[0] == tokens[1] != tokens[2]
    assert STAGE.batches(1, [], Letters()) == []


def test_a_stage_goes_on_where_the_run_is_and_is_not_made_again_after_it() -> None:
    run = RunState(Budget(), recent_voids=deque())
    made = []
    for place in (
        None,
        Place("warm_start", 9),
        Place("rejection_sampling", 4),
        Place("rejection_sampling", 6),
        Place("step", 0),
    ):
        run.place = place
        made.append(steps_made(STAGE, run))
    assert made == [0, 0, 4, None, None]
