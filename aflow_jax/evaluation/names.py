"""The names of what is evaluated, in the order of the tables. This module imports nothing, for --help."""

POLICY = "policy"
SINGLE_CALL = "single_call"
CHAIN_OF_THOUGHT = "chain_of_thought"
SELF_CONSISTENCY = "self_consistency"
HAND_WRITTEN = "hand_written"
UNTRAINED = "untrained"

BASELINES = (SINGLE_CALL, CHAIN_OF_THOUGHT, SELF_CONSISTENCY, HAND_WRITTEN, UNTRAINED)
"""What --baselines takes."""
