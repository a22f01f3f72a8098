"""Saves a learner's state on one layout of eight devices, restores it on others; prints what it found as JSON.

python restored_elsewhere.py, with XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aflow_jax.grpo import LearnerSettings
from aflow_jax.grpo.learner import new_state
from aflow_jax.qwen2 import Qwen2Config, ShardingRules, init_adapter, make_mesh
from aflow_jax.runs import Checkpoint, Checkpoints, Place

CONFIG = Qwen2Config(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    vocab_size=256,
    tie_word_embeddings=False,
)
LAYOUTS = {"one device": None, "2x2": (2, 2), "8x1": (8, 1), "1x8": (1, 8)}


def main() -> None:
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for saved_on in LAYOUTS:
            state = fresh(saved_on, seed=1)
            checkpoints = Checkpoints(Path(folder) / saved_on)
            checkpoints.save(Place("step", 3), state)
            checkpoints.close()
            for restored_on in LAYOUTS:
                like = fresh(restored_on, seed=2)
                restored = Checkpoint.open(Path(folder) / saved_on / "step_3").restore(like)
                report[f"{saved_on} -> {restored_on}"] = {
                    "equal": all(jax.tree.leaves(jax.tree.map(np.array_equal, *jax.device_get((restored, state))))),
                    "lie as asked": all(jax.tree.leaves(jax.tree.map(same_sharding, restored, like))),
                    "devices": len(jax.tree.leaves(restored.adapter_weights)[0].sharding.device_set),
                }
    print(json.dumps(report))


def fresh(layout: str, seed: int):
    rules = None
    if LAYOUTS[layout]:
        data, model = LAYOUTS[layout]
        rules = ShardingRules(make_mesh(data, model, jax.devices()[: data * model]), fsdp=True)
    weights = init_adapter(CONFIG, 8, 16, "q_proj,o_proj,down_proj", jax.random.key(seed)).weights
    state = new_state(weights, LearnerSettings(), rules)
    # Moments that are not zero.
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(seed, leaf.dtype), state)


def same_sharding(one: jax.Array, other: jax.Array) -> bool:
    return one.sharding.is_equivalent_to(other.sharding, one.ndim)


if __name__ == "__main__":
    main()
