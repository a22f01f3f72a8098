"""What a server offers, and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aflow_jax.qwen2 import Adapter, Tokenizer


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server offers, and its bounds.

    Attributes:
        adapters: by the name that clients ask for, the base model (None) first.
        tokenizer: of the base model.
        vocab_size: token ids that the model knows.
        max_model_len: prompt and completion together, in tokens, at most.
        api_key: the key to demand, or None.
        max_body_bytes: bound of a request's body.
    """

    adapters: Mapping[str, Adapter | None]
    tokenizer: Tokenizer
    vocab_size: int
    max_model_len: int
    api_key: str | None = field(default=None, repr=False)
    max_body_bytes: int = 4 << 20
