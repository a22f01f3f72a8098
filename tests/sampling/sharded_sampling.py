"""Sampling on a mesh of 4 × 2 devices and on one of them; prints what it found as JSON.

python sharded_sampling.py, with XLA_FLAGS=--xla_force_host_platform_device_count=8
"""

import dataclasses
import json
import re

import jax
import numpy as np

from aflow_jax.memory.programs import draw_settings
from aflow_jax.qwen2 import Qwen2, Qwen2Config, ShardingRules, Sharing, init_adapter, init_random, make_mesh, place
from aflow_jax.sampling import Engine, Request, SamplingParams
from aflow_jax.sampling.decode import decode, decode_weights
from aflow_jax.sampling.filters import top_k_bound
from aflow_jax.sampling.prefill import Moves, prefill, store
from aflow_jax.sampling.slot_state import StateShape, empty_slots

CONFIG = Qwen2Config(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=128,
    tie_word_embeddings=True,
)
PARAMS = SamplingParams(max_new_tokens=12, temperature=1.0, stop_token_ids=(3, 5))


class Spelled:
    """As much of a tokenizer as the scheduler asks for."""

    eos_token_ids = (3,)

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(65 + token) for token in tokens)


def main() -> None:
    model = jax.jit(init_random, static_argnums=0)(CONFIG, jax.random.key(0))
    model = jax.tree.map(lambda weight: weight * 8, model)
    adapter = init_adapter(CONFIG, 4, 8, "q_proj,o_proj", jax.random.key(1))
    adapter = adapter.replace_weights(jax.tree.map(lambda weight: weight + 0.1, adapter.weights))
    rules = ShardingRules(make_mesh(4, 2))
    wide = on_mesh(model, rules)
    cut = adapter.replace_weights(place(adapter.weights, rules.adapter(adapter.weights)))
    one, eight = completions(model, adapter), completions(wide, cut)
    gaps = [np.abs(np.subtract(own[1], other[1])).max() for own, other in zip(one, eight, strict=True)]
    found = {"tokens equal": [own[0] for own in one] == [other[0] for other in eight], "logprob gap": float(max(gaps))}
    found |= {"drawn": sum(len(own[0]) for own in one), "gathered": gathered(wide, cut)}
    narrow = ShardingRules(make_mesh(2, 1, jax.devices()[:2]))
    found["copied equal"] = taken_and_copied(model) == taken_and_copied(on_mesh(model, narrow))
    print(json.dumps(found))


def completions(model: Qwen2, adapter: object) -> list[tuple[list[int], list[float]]]:
    """Completions of five prompts, the first of them alone for a moment, of which more wait than there are slots."""
    engine = Engine(model, Spelled(), slots=8, prompt_max_length=64, chunk_length=4, prompt_readers=2)
    scheduler = engine.scheduler()
    for at in range(5):
        prompt = tuple(range(7 + at, 20 + 5 * at))
        scheduler.submit(Request(prompt_tokens=prompt, seeds=((at, 0), (at, 1), (at, 2))), PARAMS, adapter)
        if at == 0:
            scheduler.step()
    done = {}
    while not scheduler.idle:
        for progress in scheduler.step():
            if progress.completion:
                done[progress.request, progress.sample] = progress.completion
    return [(list(done[place].tokens), done[place].logprobs.tolist()) for place in sorted(done)]


def taken_and_copied(model: Qwen2) -> list[list[int]]:
    """Completions where a prompt's place is copied from, and taken by another prompt, in one round.

    There is a slot to each of two devices. The first two completions end together; the second one's sibling gets the
    first one's slot, and the third prompt the second one's.
    """
    scheduler = Engine(model, Spelled(), slots=2, prompt_max_length=64, chunk_length=4, prompt_readers=2).scheduler()
    params = dataclasses.replace(PARAMS, stop_token_ids=())
    for at, samples in enumerate((1, 2, 1)):
        seeds = tuple((at, sample) for sample in range(samples))
        scheduler.submit(Request(prompt_tokens=tuple(range(7 + at, 20 + 5 * at)), seeds=seeds), params)
    done = {}
    while not scheduler.idle:
        for progress in scheduler.step():
            done.setdefault((progress.request, progress.sample), []).extend(progress.tokens)
    return [done[place] for place in sorted(done)]


def gathered(model: Qwen2, adapter: object) -> int:
    """The most numbers that one all-gather of the decode loop, or of taking in a prompt, brings together."""
    shape = StateShape(slots=8, room=256, pages=8, page_length=256, prompt_room=256)
    state = empty_slots(model, shape)
    weights = decode_weights(model, adapter)
    settings = jax.tree.map(lambda at: np.ones(at.shape, at.dtype), draw_settings(shape, readers=2))
    zeros = np.zeros(8, np.int32)
    sharing = Sharing(
        lengths=zeros + 9,
        readers=np.zeros((8, 2), np.int32),
        pages=zeros[:, None],
        prompt_lengths=zeros + 9,
        reader=zeros,
    )
    settings = dataclasses.replace(settings, sharing=sharing)
    tokens, rows = np.zeros((2, 64), np.int32), np.asarray([1, 6], np.int32)
    prefix = prefill(model, adapter, tokens, rows, room=64)
    moves = Moves(count=np.int32(2), sources=np.arange(2, dtype=np.int32), starts=0 * rows, pages=rows)
    programs = [
        decode.lower(weights, state, settings, chunk_length=4, bound=top_k_bound(0, CONFIG.vocab_size)),
        store.lower(state, prefix, moves, rules=model.rules),
    ]
    texts = [program.compile().as_text() for program in programs]
    shapes = [shape for text in texts for shape in re.findall(r"\w+\[([\d,]+)\][^=]* all-gather\(", text)]
    return max((int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes), default=0)


def on_mesh(model: Qwen2, rules: ShardingRules) -> Qwen2:
    def put(name: str, weight: jax.Array) -> jax.Array:
        return place(weight, rules.weight(name, weight.shape))

    return Qwen2(
        CONFIG,
        embedding=put("embedding", model.embedding.get_value()),
        layers={name: put(name, weight) for name, weight in model.layer_weights().items()},
        final_norm=put("final_norm", model.final_norm.get_value()),
        lm_head=None,
        rules=rules,
    )


if __name__ == "__main__":
    main()
