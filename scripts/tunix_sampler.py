"""Tunix's vanilla sampler as a peer for `bench_sampling.py`: one JSON object a line in, one out.

    python scripts/tunix_sampler.py FOLDER       in an environment with google-tunix, and nothing of this project

In: {"prompts": [[token, …], …], "new_tokens": 128}. Out: {"seconds": …, "tokens": …}, first of all the versions.
"""

import importlib.metadata
import json
import sys
import time

import jax
import jax.numpy as jnp
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen2.model import ModelConfig, Qwen2
from tunix.models.qwen2.params import create_model_from_safe_tensors

NO_TOKEN = -1


class PlainTokenizer:
    """Prompts are given as their token ids, with blanks between them."""

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in text.split()]

    def decode(self, tokens: list[int]) -> str:
        return ""

    def bos_id(self) -> int:
        return 0  # not one of those that a prompt begins with

    def eos_id(self) -> int:
        return NO_TOKEN

    def pad_id(self) -> int:
        return NO_TOKEN


def load(folder: str, mesh: jax.sharding.Mesh | None = None) -> Qwen2:
    """Return the model of a checkpoint, float32."""
    with open(f"{folder}/config.json", encoding="utf-8") as file:
        values = json.load(file)
    config = ModelConfig(
        num_layers=values["num_hidden_layers"],
        vocab_size=values["vocab_size"],
        embed_dim=values["hidden_size"],
        hidden_dim=values["intermediate_size"],
        num_heads=values["num_attention_heads"],
        head_dim=values["head_dim"],
        num_kv_heads=values["num_key_value_heads"],
        rope_theta=int(values["rope_theta"]),
        norm_eps=values["rms_norm_eps"],
        use_tied_embedding=values["tie_word_embeddings"],
    )
    return create_model_from_safe_tensors(folder, config, mesh, dtype=jnp.float32)


def main() -> None:
    model = load(sys.argv[1])
    config = model.config
    samplers: dict[int, Sampler] = {}
    versions = {name: importlib.metadata.version(name) for name in ("google-tunix", "jax")}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        longest = max(map(len, work["prompts"]))
        size = longest + work["new_tokens"]
        if size not in samplers:
            cache = CacheConfig(size, config.num_layers, config.num_kv_heads, config.head_dim)
            samplers[size] = Sampler(model, PlainTokenizer(), cache)
        texts = [" ".join(map(str, prompt)) for prompt in work["prompts"]]
        start = time.perf_counter()
        # top_p 1 without top_k is its plain draw from the whole vocabulary.
        output = samplers[size](texts, work["new_tokens"], longest, temperature=1.0, top_p=1.0, eos_tokens=[NO_TOKEN])
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "tokens": sum(len(row) for row in output.tokens)}), flush=True)


if __name__ == "__main__":
    main()
