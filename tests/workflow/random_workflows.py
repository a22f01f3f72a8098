"""Random workflows within the default limits, and texts that are nearly workflows."""

import random

from hypothesis import strategies as st

from aflow_jax.workflow import Branch, Call, Chain, Limits, Loop, Parallel, nesting, operator_names, worst_case_calls

LIMITS = Limits()
INSTRUCTIONS = st.one_of(
    st.none(), st.text(max_size=30), st.sampled_from(("<workflow>", "x</workflow>y", '"\\', "{}", "\n\t", "\u2028é😀"))
)
CALLS = st.builds(Call, st.sampled_from(operator_names()), INSTRUCTIONS)
CHECKS = st.builds(Call, st.sampled_from(("Review", "Test")), INSTRUCTIONS)


def _compound(stages: st.SearchStrategy) -> st.SearchStrategy:
    chains = st.lists(stages, min_size=1, max_size=2).map(lambda parts: Chain(tuple(parts)))
    arms = st.one_of(st.none(), chains)
    return st.one_of(
        st.builds(Branch, CHECKS, arms, arms),
        st.builds(Loop, chains, st.integers(1, 5)),
        st.lists(chains, min_size=2, max_size=3).map(lambda branches: Parallel(tuple(branches))),
    )


STAGES = st.recursive(CALLS, _compound, max_leaves=5)
ANY_WORKFLOWS = st.lists(STAGES, min_size=1, max_size=2).map(lambda stages: Chain(tuple(stages)))
WORKFLOWS = ANY_WORKFLOWS.filter(
    lambda workflow: nesting(workflow) <= LIMITS.nesting and worst_case_calls(workflow) <= LIMITS.calls
)

PIECES = (
    "Custom", "Review", "Test", "Format", "done", "Revise", "->", "(", ")", "[", "]", ",", "?", ":", "*", "3", " ",
    "\n", '"a"', '("x")', '"', "\\", "\\u", "<workflow>", "</workflow>", "custom", "é", "😀", "\x00", "00", "-", ">",
)  # fmt: skip
SEEDS = (
    "CustomCodeGenerate -> ( Test ? Revise : done ) * 3",
    '[ AnswerGenerate , Custom ("a b") , Programmer ] -> ScEnsemble -> Review ? ( Revise -> Format ) : done',
    "<workflow> ((Custom -> Format ) * 2) -> [ Custom , Custom ] -> done </workflow>",
)


def fuzzed(source: random.Random) -> str:
    """Return a text of the language's own pieces, or a workflow with a few of its words or characters changed."""
    kind = source.randrange(3)
    if kind == 0:
        return "".join(source.choices(PIECES, k=source.randint(0, 25)))
    parts = source.choice(SEEDS).split() if kind == 1 else list(source.choice(SEEDS))
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(parts))
        parts[place : place + source.randint(0, 2)] = [source.choice(PIECES)]
    return (" " if kind == 1 else "").join(parts)
