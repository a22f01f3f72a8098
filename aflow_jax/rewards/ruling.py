"""What a rule says about an answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ruling:
    """A level of correctness, and whether the rules stand by it.

    Attributes:
        level: 0, .2, .4, .7 or 1.
        settled: False where the rules cannot know better, and a judge may raise the level to 1.
    """

    level: float
    settled: bool = True
