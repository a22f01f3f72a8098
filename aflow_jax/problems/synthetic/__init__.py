"""Problems that the project makes itself: any number, seeded, with the splits disjoint by construction."""

from aflow_jax.problems.synthetic.generate import generate_problems

__all__ = ["generate_problems"]
