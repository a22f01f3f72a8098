"""One problem to solve, whatever file or generator it came from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer and what is needed to grade it.

    Attributes:
        question: what is asked, as the policy and the operators see it.
        answer: the gold answer; alternatives joined by `|` where the source says so; for code the reference solution.
        source: the dataset, a row of configs/datasets.yaml.
        domain: "math", "code" or "qa".
        context: passages that every operator gets, for sources that have them.
        entry_point: the function that code must define.
        test: the hidden tests, a `check(candidate)` function or bare asserts.
        id: unique within a file.
    """

    question: str
    answer: str
    source: str
    domain: str
    context: str | None = None
    entry_point: str | None = None
    test: str | None = None
    id: str = ""
