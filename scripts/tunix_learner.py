"""Tunix's GRPO learner as a peer for `bench_step.py`: one JSON object a line in, one out for every step.

    python scripts/tunix_learner.py FOLDER SETTINGS    in an environment with google-tunix and qwix, and nothing of
                                                       this project

SETTINGS is JSON: rank, samples, prompt_length, new_tokens, learning_rate, weight_decay, kl_coef. In: {"prompts":
[[token, …], …]}. Out: {"seconds": …, "tokens": …, "memory": GB, "learned": …, "moved": …}, first of all the versions.

The learner runs its own loop. It asks for the next batch when a step has ended, so a step's seconds are those between
two batches. The adapter is qwix's, on q, k, v and o, and the base below it is the reference. A prompt and a completion
are text of token ids, since Tunix takes prompts and gives completions to the reward as text.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.reshard import reshard_model_to_mesh
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from tunix_sampler import NO_TOKEN, PlainTokenizer, load

ALL_STEPS = 1_000_000  # the learner must know a last step; standard input ends before it


class TokenTexts(PlainTokenizer):
    """Completions are given as their token ids too, with blanks between them."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


class EvenShare:
    """The reward: the share of a completion's tokens that are even. `tokens` counts those of the last step."""

    __name__ = "even_share"

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        rows = [[int(token) for token in text.split()] for text in completions]
        self.tokens = sum(map(len, rows))
        return [sum(token % 2 == 0 for token in row) / len(row) for row in rows]


def main() -> None:
    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    cluster, reward = make_cluster(folder, settings, mesh), EvenShare()
    method = GRPOConfig(
        num_generations=settings["samples"],
        num_iterations=1,
        beta=settings["kl_coef"],
        kl_loss_mode="low_var_kl",  # k3
        epsilon=0.2,
    )
    learner = GRPOLearner(rl_cluster=cluster, algo_config=method, reward_fns=reward)
    versions = {name: importlib.metadata.version(name) for name in ("google-tunix", "qwix", "jax")}
    print(json.dumps(versions), flush=True)
    learner.train(batches(cluster, reward))


def make_cluster(folder: str, settings: dict[str, Any], mesh: jax.sharding.Mesh) -> RLCluster:
    """Return the base, and a policy that shares it and has an adapter, on one device."""
    base = load(folder, mesh)
    provider = qwix.LoraProvider(
        module_path=".*q_proj|.*k_proj|.*v_proj|.*o_proj", rank=settings["rank"], alpha=float(settings["rank"])
    )
    policy = qwix.apply_lora_to_model(base, provider, rngs=nnx.Rngs(1), **base.get_model_input())
    policy = reshard_model_to_mesh(policy, mesh)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(settings["learning_rate"], weight_decay=settings["weight_decay"]),
    )
    rollout = RolloutConfig(
        max_tokens_to_generate=settings["new_tokens"],
        max_prompt_length=settings["prompt_length"],
        kv_cache_size=settings["prompt_length"] + settings["new_tokens"],
        temperature=1.0,
        top_p=1.0,  # without top_k its plain draw from the whole vocabulary
        eos_tokens=[NO_TOKEN],
    )
    config = ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        rollout_engine="vanilla",
        training_config=RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=ALL_STEPS, max_steps=ALL_STEPS),
        rollout_config=rollout,
    )
    return RLCluster(actor=policy, reference=base, tokenizer=TokenTexts(), cluster_config=config)


def batches(cluster: RLCluster, reward: EvenShare) -> Iterator[dict[str, np.ndarray]]:
    """Yield the prompts of each line; when the next ones are asked for, say how the step with them went."""
    for line in sys.stdin:
        prompts = np.array([" ".join(map(str, prompt)) for prompt in json.loads(line)["prompts"]])
        start = time.perf_counter()
        yield {"prompts": prompts}
        # The program that updates is waited for by the learner; this makes sure of it.
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model, nnx.LoRAParam))
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        said = {"seconds": seconds, "tokens": reward.tokens, "memory": memory} | adapter(cluster)
        print(json.dumps(said), flush=True)


def adapter(cluster: RLCluster) -> dict[str, float]:
    """Return how many weights the adapter has in the model that samples, and the largest absolute one of its B."""
    weights = jax.tree_util.tree_leaves_with_path(nnx.state(cluster.rollout.model(), nnx.LoRAParam))
    moved = max(float(jnp.abs(weight).max()) for path, weight in weights if "lora_b" in jax.tree_util.keystr(path))
    return {"learned": sum(weight.size for _, weight in weights), "moved": moved}


if __name__ == "__main__":
    main()
