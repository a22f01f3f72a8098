"""How good a policy is, beside workflows that nobody learnt: rollouts, scores, paired tests, contamination, tables.

problems → policy and baselines, one executor → rollouts → scores and comparisons → tables, JSON, chart
"""
