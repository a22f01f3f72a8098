import asyncio

import pytest

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards import DEFAULT_WEIGHTS, Grade, Grader, JudgeUnavailable, grade_answer, grade_rollout
from aflow_jax.rewards.components import efficiency, simplicity
from aflow_jax.workflow import Outcome, WorkflowError, parse, parse_completion
from aflow_jax.workflow.trace import Execution, Usage

MATH = Problem("What is 6 times 7?", "42", "gsm8k", "math")
QA = Problem("Who wrote it?", "Ada Lovelace", "hotpotqa", "qa")
TEXT = "<workflow>Custom -> Review ? Revise : done</workflow>"
USAGE = Usage(calls=3, prompt_tokens=900, completion_tokens=100, usd=0.001)


class Rulings:
    """A judge that rules as it is told and counts how often it is asked."""

    def __init__(self, right: bool | JudgeUnavailable) -> None:
        self.right = right
        self.asked: list[str] = []

    async def is_right(self, problem: Problem, answer: str) -> bool:
        self.asked.append(answer)
        if isinstance(self.right, JudgeUnavailable):
            raise self.right
        return self.right


def scored(answer: str) -> Execution:
    return Execution(Outcome.SCORED, answer, (), USAGE)


def grade(problem: Problem, execution: Execution, judge: Rulings | None = None, text: str = TEXT, **settings) -> Grade:
    return asyncio.run(grade_rollout(problem, execution, parse(text), completion=text, judge=judge, **settings))


def test_the_reward_is_the_weighted_sum_and_a_right_answer_gets_all_its_parts() -> None:
    found = grade(MATH, scored("42"))
    thrift, plainness = efficiency(3, 1000, 0.001), simplicity(3)
    assert found.components == pytest.approx(
        {"correctness": 1.0, "efficiency": thrift, "simplicity": plainness, "format": 1.0, "repetition": 1.0}
    )
    assert found.reward == pytest.approx(0.65 + 0.15 * thrift + 0.10 * plainness + 0.05 + 0.05)
    assert sum(DEFAULT_WEIGHTS.values()) == pytest.approx(1.0)


def test_efficiency_and_simplicity_count_as_far_as_the_answer_is_correct() -> None:
    wrong = grade(QA, scored("nobody knows"))
    assert wrong.components["efficiency"] == wrong.components["simplicity"] == 0.0
    assert wrong.reward == pytest.approx(0.10)
    partly = grade(QA, scored("Ada"))
    assert partly.correctness == 0.7
    assert partly.components["efficiency"] == pytest.approx(0.7 * efficiency(3, 1000, 0.001))


def test_a_group_of_failures_is_not_ranked_by_being_short() -> None:
    short = grade(QA, scored("zeta"), text="<workflow>Custom</workflow>")
    long = grade(QA, scored("zeta"), text="<workflow>[Custom, AnswerGenerate, Programmer] -> ScEnsemble</workflow>")
    assert short.reward == long.reward


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.is_policy_fault])
def test_a_policy_fault_in_the_run_leaves_only_the_format(outcome: Outcome) -> None:
    found = grade(MATH, Execution(outcome, None, (), USAGE))
    assert found.reward == pytest.approx(0.05)
    assert found.correctness == 0.0 and not found.judged


def test_a_text_that_is_no_workflow_is_graded_by_how_far_it_got() -> None:
    rewards = []
    for text in ("no workflow", "<workflow>Custom ->", "<workflow>Custom -> Reviw</workflow>"):
        with pytest.raises(WorkflowError) as error:
            parse_completion(text)
        found = asyncio.run(grade_rollout(MATH, None, error.value, completion=text))
        assert found.reward == pytest.approx(0.05 * error.value.progress)
        rewards.append(found.reward)
    assert rewards == sorted(rewards) and rewards[-1] < 0.05


def test_the_judge_is_asked_only_where_the_rules_leave_it_open() -> None:
    for problem, answer, asked in [
        (MATH, "42", False),
        (MATH, "41", False),
        (MATH, "None", False),
        (MATH, "four dozen", True),
        (QA, "Ada Lovelace", False),
        (QA, "Ada", True),
        (QA, "{}", False),
        (QA, "unanswerable", False),
    ]:
        judge = Rulings(False)
        found = grade(problem, scored(answer), judge)
        assert (bool(judge.asked), found.judged) == (asked, asked), answer
        assert found.correctness == grade_answer(problem, answer).correctness


def test_a_ruling_of_true_gives_one_and_of_false_leaves_the_rules_level() -> None:
    assert grade(QA, scored("Ada"), Rulings(True)).correctness == 1.0
    assert grade(QA, scored("Ada"), Rulings(False)).correctness == 0.7
    assert grade(QA, scored("Ada")).correctness == 0.7


def test_a_judge_that_is_not_to_be_had_makes_the_rollout_void() -> None:
    grader = Grader(Rulings(JudgeUnavailable("gone")))
    execution, found = asyncio.run(grader.grade(QA, TEXT, parse(TEXT), None, scored("Ada")))
    assert execution.outcome is Outcome.JUDGE_UNAVAILABLE and execution.outcome.is_void
    assert execution.usage == USAGE and found.reward == 0.0
    with pytest.raises(JudgeUnavailable):
        grade(QA, scored("Ada"), Rulings(JudgeUnavailable("gone")))


def test_a_void_run_stays_void_and_asks_nobody() -> None:
    judge = Rulings(True)
    void = Execution(Outcome.RATE_LIMITED, None, (), USAGE, "busy")
    execution, found = asyncio.run(Grader(judge).grade(QA, TEXT, parse(TEXT), None, void))
    assert execution == void and found.reward == 0.0 and not judge.asked
    with pytest.raises(ValueError, match="void"):
        grade(QA, void)


def test_the_weights_can_be_set() -> None:
    weights = {"correctness": 1.0, "efficiency": 0.0, "simplicity": 0.0, "format": 0.0, "repetition": 0.0}
    assert grade(QA, scored("Ada"), weights=weights).reward == pytest.approx(0.7)


def test_a_grade_by_the_rules_alone_has_only_correctness() -> None:
    assert grade_answer(MATH, "42") == Grade(1.0, {"correctness": 1.0}, 0.65, judged=False)
    assert grade_answer(MATH, None).reward == 0.0
