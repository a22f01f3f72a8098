"""Which inputs of an adapter are dropped in training: it follows from a row's own key, whatever runs beside it."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from aflow_jax.qwen2.packing import Packing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropout:
    """What dropout draws from.

    Attributes:
      keys: Each row's, [B]; of packed rows each prompt's and each of its completions', [G, 1 + S].
      packing: What packed rows hold.
    """

    keys: PRNGKeyArray
    packing: Packing | None = None

    def fold_in(self, number: Int[Array, ""] | int) -> Self:
        """Return `jax.random.fold_in` of every key."""
        fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        return dataclasses.replace(self, keys=fold(self.keys.reshape(-1), number).reshape(self.keys.shape))

    def kept(self, share: float, shape: tuple[int, int, int]) -> Bool[Array, "B T I"]:
        """Draw which inputs of that shape stay, each with probability `share`; padding changes nothing before it."""

        def draw(keys: PRNGKeyArray, length: int) -> Bool[Array, "n L I"]:
            return jax.vmap(lambda key: jax.random.bernoulli(key, share, (length, shape[2])))(keys)

        if self.packing is None:
            return draw(self.keys, shape[1])
        prompts = draw(self.keys[:, 0], self.packing.prompt_width)
        completions = draw(self.keys[:, 1:].reshape(-1), self.packing.width(shape[1]))
        return jnp.concatenate([prompts, completions.reshape(len(prompts), -1, shape[2])], axis=1)
