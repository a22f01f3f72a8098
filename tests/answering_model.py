"""A tiny model that has one reply to everything, for tests of what a base model's replies are used for."""

from collections.abc import Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from aflow_jax.qwen2 import Tokenizer, create_checkpoint, load_pretrained, load_tokenizer, save_pretrained

WIDTH = 64
_LENGTH = 2.0  # of a row of the embedding


def create_answering_model(folder: Path, texts: Iterable[str], reply: str, *, vocab_size: int = 800) -> None:
    """Write a model whose most probable reply to any conversation is `reply`, followed by the end token.

    Attention adds nothing to the residual stream, and the first layer's MLP moves each token of the chain
    (last of the prompt, tokens of the reply, end token) to the next one: its row of the embedding is a basis vector
    that one unit detects.
    """
    create_checkpoint(
        folder, texts=[*texts, *[reply] * 200], seed=0, hidden_size=WIDTH, intermediate_size=WIDTH,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=vocab_size,
    )  # fmt: skip
    tokenizer = load_tokenizer(folder)
    opening = tokenizer.encode_chat([{"role": "user", "content": "?"}])[-1]
    chain = [opening, *_spelled_without_repeats(tokenizer, reply), tokenizer.eos_token_ids[0]]
    assert len(set(chain)) == len(chain), "a reply that can be spelled with no token twice"
    model = load_pretrained(folder, "float32")
    weights = {name: np.zeros(weight.get_value().shape, np.float32) for name, weight in model.layers.items()}
    embedding = np.array(model.embedding.get_value())
    embedding[:, : len(chain)] = 0.0
    for place, token in enumerate(chain):
        embedding[token] = _LENGTH * np.eye(WIDTH)[place]
    # After the norm a row of the chain is √D long, so its unit gives silu(√D) · √D ≈ D.
    for place in range(len(chain) - 1):
        weights["gate_proj"][0, place, place] = weights["up_proj"][0, place, place] = 1.0
        weights["down_proj"][0, place + 1, place] = 3 * _LENGTH / WIDTH
    for name, weight in model.layers.items():
        if name in ("o_proj", "gate_proj", "up_proj", "down_proj"):
            weight.set_value(jnp.asarray(weights[name]))
    model.embedding.set_value(jnp.asarray(embedding))
    save_pretrained(model, folder)


def _spelled_without_repeats(tokenizer: Tokenizer, reply: str) -> list[int]:
    """Return tokens of a reply in ASCII: a piece that is there already is spelled letter by letter."""
    tokens: list[int] = []
    for token in tokenizer.encode_text(reply):
        letters = [tokenizer.encode_text(letter)[0] for letter in tokenizer.decode([token])]
        tokens += letters if token in tokens else [token]
    return tokens
