"""A stand-in for a paid model: an OpenAI-compatible server on loopback with known skills, latencies and faults.

It knows the gold answers of the problems it is given and answers them right or plausibly wrong, so what it says about
how good a model is, is what its skill table says. Replies carry the model name "simulator", the system fingerprint
"simulator" and the header `x-simulated: true`.
"""

from aflow_jax.llm.simulator.process import SimulatorProcess, start_simulator
from aflow_jax.llm.simulator.skills import DEFAULT_SKILLS

__all__ = ["DEFAULT_SKILLS", "SimulatorProcess", "start_simulator"]
