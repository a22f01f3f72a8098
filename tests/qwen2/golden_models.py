"""Small models with weights that numpy's frozen generator makes from a seed, for us and for transformers alike."""

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aflow_jax.qwen2 import Qwen2, Qwen2Config
from aflow_jax.qwen2.checkpoint import save_config, tensor_shapes
from aflow_jax.qwen2.safetensors_file import write_safetensors
from aflow_jax.qwen2.weights import load_pretrained

GOLDEN_FILE = Path(__file__).resolve().parent.parent / "golden" / "qwen2_logits.npz"
LENGTHS = np.array([23, 9, 1], np.int32)
VOCABULARY = 101


@dataclasses.dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    hidden: int | None = None
    rope_theta: float = 1e6

    def config(self) -> Qwen2Config:
        return Qwen2Config(
            hidden_size=self.hidden or self.heads * self.head_dim,
            intermediate_size=72,
            num_hidden_layers=3,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=VOCABULARY,
            rope_theta=self.rope_theta,
            tie_word_embeddings=self.tied,
        )


SHAPES = {
    "heads 14 over 2, tied (0.5B)": Shape(14, 2, 4, tied=True),
    "heads 28 over 4, untied (7B)": Shape(28, 4, 2, tied=False),
    "heads 4 over 4, tied": Shape(4, 4, 8, tied=True),
    "heads 4 over 4, untied": Shape(4, 4, 8, tied=False, rope_theta=1e4),
    "heads 8 over 1, untied": Shape(8, 1, 8, tied=False),
    "heads wider than the model": Shape(4, 2, 16, tied=True, hidden=40),
}


def tokens() -> np.ndarray:
    """Right-padded rows of LENGTHS; the padding is random, because it must not matter."""
    return np.random.RandomState(7).randint(0, VOCABULARY, (len(LENGTHS), LENGTHS.max())).astype(np.int32)


def tensor_maker(config: Qwen2Config) -> Callable[[str], np.ndarray]:
    """Weights large enough that every part of the model shows in the logits."""
    shapes = tensor_shapes(config)

    def tensor(name: str) -> np.ndarray:
        normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shapes[name])
        if name.endswith("norm.weight"):
            return (1 + 0.2 * normal).astype(np.float32)
        if name.endswith("bias"):
            return normal.astype(np.float32)
        return (normal * (1.5 / np.sqrt(shapes[name][-1]))).astype(np.float32)

    return tensor


def write_model(config: Qwen2Config, folder: Path) -> Path:
    """Write the model's folder as Hugging Face would."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder, "float32")
    write_safetensors(folder / "model.safetensors", tensor_shapes(config), np.dtype(np.float32), tensor_maker(config))
    return folder


def make_model(config: Qwen2Config, folder: Path) -> Qwen2:
    return load_pretrained(write_model(config, folder), dtype="float32")
