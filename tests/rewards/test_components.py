import pytest

from aflow_jax.rewards.components import efficiency, repetition, simplicity, text_format
from aflow_jax.workflow import WorkflowError, parse


@pytest.mark.parametrize(
    ("calls", "tokens", "usd", "value"),
    [
        (0, 0, 0.0, 1.0),
        (1, 0, None, 1.0),
        (1, 8_000, None, 0.75),
        (1, 8_000, 0.0, 0.75),
        (1, 8_000, 0.002, 0.75),
        (24, 8_000, 0.006, 0.125),
        (100, 0, None, 0.5),
        (12, 24_000, None, (12 / 23 + 1 / 4) / 2),
    ],
)
def test_efficiency_is_the_mean_of_saved_calls_and_cheapness(
    calls: int, tokens: int, usd: float | None, value: float
) -> None:
    assert efficiency(calls, tokens, usd) == pytest.approx(value)


def test_efficiency_falls_with_calls_and_with_cost_and_stays_in_range() -> None:
    values = [efficiency(calls, 500 * calls, None) for calls in range(1, 60)]
    assert values == sorted(values, reverse=True) and all(0 <= value <= 1 for value in values)
    assert efficiency(3, 100, 1e6) >= 0


@pytest.mark.parametrize(("count", "value"), [(1, 1.0), (2, 8 / 9), (10, 0.0), (24, 0.0)])
def test_simplicity_counts_operators(count: int, value: float) -> None:
    assert simplicity(count) == pytest.approx(value)


def test_format_is_one_for_a_workflow_and_the_progress_of_an_error() -> None:
    assert text_format(None) == 1.0
    with pytest.raises(WorkflowError) as early:
        parse("<workflow>Custom -> ->")
    with pytest.raises(WorkflowError) as late:
        parse("<workflow>Custom -> AnswerGenerate -> Nonsense</workflow>")
    assert 0 <= text_format(early.value) < text_format(late.value) < 1


@pytest.mark.parametrize(
    ("reasoning", "workflow", "value"),
    [
        ("", "Custom", 1.0),
        ("Each word is here only once, so nothing repeats.", "Custom", 1.0),
        ("a b c d a b c d", "Custom", 4 / 5),
        ("ha " * 13, "Custom", 1 / 10),
        ("", "Custom -> Custom", 1 / 2),
        ("", 'Custom("a") -> Custom("b")', 1.0),
        ("", "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble", 1.0),
        ("", "(Revise -> Revise) * 3 -> [Custom -> Custom, Format]", 1 - 2 / 5),
        ("", "Review ? (Revise -> Revise) : done", 2 / 3),
    ],
)
def test_repetition_is_the_lesser_of_distinct_text_and_calls_without_echo(
    reasoning: str, workflow: str, value: float
) -> None:
    text = f"{reasoning} <workflow>{workflow}</workflow>"
    assert repetition(text, parse(text)) == pytest.approx(value)
