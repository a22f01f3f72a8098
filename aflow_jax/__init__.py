"""Train a language model to write agent workflows: Qwen2.5, GRPO and LoRA in JAX/Flax.

`Solver` and `Solution`, the way to use a trained policy from Python, are imported on first use: they need JAX.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aflow_jax.solver import Solution, Solver

__version__ = "0.1.0"
__all__ = ["Solution", "Solver", "__version__"]


def __getattr__(name: str) -> object:
    if name not in ("Solution", "Solver"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aflow_jax import solver

    return getattr(solver, name)
