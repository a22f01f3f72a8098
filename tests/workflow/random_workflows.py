"""Hypothesis strategies for workflows within the default limits."""

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
