"""The shape of a Qwen2.5 model, read from a Hugging Face `config.json`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aflow_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    """Shape and constants of a Qwen2.5 model; the names are those of Hugging Face's `config.json`.

    Attributes:
      hidden_size: Width D of the residual stream.
      intermediate_size: Width of the gated MLP.
      num_hidden_layers: Number L of layers.
      num_attention_heads: Number H of query heads.
      num_key_value_heads: Number K of key/value heads; divides H.
      head_dim: Width of one head; H * head_dim need not be D.
      vocab_size: Number V of rows of the embedding, at least the tokenizer's size.
      rms_norm_eps: Added to the mean square in every norm.
      rope_theta: Base of the rotary angles.
      tie_word_embeddings: Whether the embedding serves as output matrix too.
      max_position_embeddings: Longest sequence that the model was trained on.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32768

    @property
    def group_size(self) -> int:
        """Query heads that read each key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Qwen2Config":
        """Read `folder/config.json`; raise UserError where it is missing, unreadable or unsupported."""
        path = Path(folder) / "config.json"
        return cls.from_dict(read_json(path), place=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], place: str = "config") -> "Qwen2Config":
        """Build from the mapping in a `config.json`; `place` names it in errors.

        Raises:
          UserError: another architecture, rope scaling, sliding windows in use, a missing or misshapen number.
        """
        _refuse_unsupported(values, place)
        hidden_size = _positive(values, "hidden_size", place)
        heads = _positive(values, "num_attention_heads", place)
        kv_heads = _positive(values, "num_key_value_heads", place, default=heads)
        if heads % kv_heads:
            raise UserError(f"{place}: num_key_value_heads must divide num_attention_heads {heads}, found {kv_heads}")
        if values.get("head_dim") is None and hidden_size % heads:
            raise UserError(f"{place}: num_attention_heads must divide hidden_size {hidden_size}, found {heads}")
        head_dim = _positive(values, "head_dim", place, default=hidden_size // heads)
        if head_dim % 2:
            raise UserError(f"{place}: head_dim must be even for rotary positions, found {head_dim}")
        return cls(
            hidden_size=hidden_size,
            intermediate_size=_positive(values, "intermediate_size", place),
            num_hidden_layers=_positive(values, "num_hidden_layers", place),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=_positive(values, "vocab_size", place),
            rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            rope_theta=_rope_theta(values),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            max_position_embeddings=_positive(values, "max_position_embeddings", place, default=32768),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping that goes into a `config.json` which transformers loads as Qwen2ForCausalLM."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_sliding_window": False,
            "use_cache": True,
            **dataclasses.asdict(self),
        }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError where the file is missing or is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a model folder in the Hugging Face layout") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _refuse_unsupported(values: Mapping[str, Any], place: str) -> None:
    model_type = values.get("model_type")
    if model_type != "qwen2":
        raise UserError(f"{place}: model_type must be 'qwen2' (Qwen2.5), found {model_type!r}")
    if values.get("hidden_act", "silu") != "silu":
        raise UserError(f"{place}: hidden_act must be 'silu', found {values['hidden_act']!r}")
    if values.get("use_sliding_window") or "sliding_attention" in (values.get("layer_types") or ()):
        raise UserError(f"{place}: use_sliding_window must be false, sliding-window attention is not supported")
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise UserError(f"{place}: quantization_config ({method!r}) is not supported: use the unquantised checkpoint")
    for key in ("rope_scaling", "rope_parameters"):
        kind = _rope_type(values.get(key))
        if kind != "default":
            raise UserError(f"{place}: {key} must be absent or of type 'default', found {kind!r}")


def _rope_type(rope: Mapping[str, Any] | None) -> str:
    if not rope:
        return "default"
    return str(rope.get("rope_type", rope.get("type", "default")))


def _rope_theta(values: Mapping[str, Any]) -> float:
    # transformers 5 moved the base of the angles from `rope_theta` into `rope_parameters`.
    nested = values.get("rope_parameters") or {}
    return float(values.get("rope_theta", nested.get("rope_theta", 10000.0)))


def _positive(values: Mapping[str, Any], key: str, place: str, default: int | None = None) -> int:
    value = values.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{place}: {key} must be a positive integer, found {value!r}")
    return value
