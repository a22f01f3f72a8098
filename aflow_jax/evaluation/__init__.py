"""How good a policy is, beside workflows that nobody learnt: rollouts, scores, paired tests, contamination, tables."""
