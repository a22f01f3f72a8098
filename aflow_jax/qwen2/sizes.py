"""The shapes of the published Qwen2.5 models, by size."""

from aflow_jax.qwen2.config import Qwen2Config

# hidden, intermediate, layers, heads, key/value heads, vocabulary, tied
_PUBLISHED = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
    "72B": (8192, 29568, 80, 64, 8, 152064, False),
}
PUBLISHED_SIZES = tuple(_PUBLISHED)


def published_shape(size: str) -> Qwen2Config:
    """Return the shape that base, Instruct, Coder and Math models of a size have, one of `PUBLISHED_SIZES`."""
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = _PUBLISHED[size]
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )
