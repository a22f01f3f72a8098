"""Models in the Hugging Face layout: from a folder onto devices, and back into a folder."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aflow_jax.errors import UserError
from aflow_jax.qwen2.checkpoint import (
    open_checkpoint,
    save_config,
    tensor_name,
    tensor_shapes,
    write_checkpoint,
)
from aflow_jax.qwen2.device import default_platform, gpu_compute_capability
from aflow_jax.qwen2.layers import layer_shapes
from aflow_jax.qwen2.model import Qwen2
from aflow_jax.qwen2.quantize import QUANTIZATIONS, Quantization, is_quantizable, quantize
from aflow_jax.qwen2.sharding import ShardingRules
from aflow_jax.qwen2.streaming import Streamer


def load_pretrained(
    folder: str | Path,
    dtype: str = "auto",
    quantization: str | None = None,
    rules: ShardingRules | None = None,
) -> Qwen2:
    """Read a model folder in the Hugging Face layout.

    Args:
      folder: Holds config.json and model.safetensors, or the shards that model.safetensors.index.json names.
      dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 on GPUs of compute capability 8.0 and above,
        float16 on older ones, float32 on CPU.
      quantization: "int8" or "nf4" quantises the projections of the layers (`quantize`); the rest, and what they
        dequantise to, is of that dtype. None leaves them.
      rules: Where each weight lies on a mesh; None puts all on the default device. Each process reads what its own
        devices hold.

    Raises:
      UserError: not such a folder, an unsupported architecture, a truncated file, or a missing, extra or misshapen
        tensor, with its key and what was expected and found.
    """
    if quantization not in (None, *QUANTIZATIONS):
        raise UserError(f"quantization must be {' or '.join(QUANTIZATIONS)}, or left out, found {quantization!r}")
    target_dtype = np.dtype(choose_dtype(dtype))
    with open_checkpoint(folder) as checkpoint:
        in_place = jax.default_backend() == "cpu"
        place = None if rules is None else rules.weight
        stream = Streamer(checkpoint=checkpoint, dtype=target_dtype, sharding=place, in_place=in_place)
        return stream_model(stream, quantization, rules)


def stream_model(
    stream: Streamer, quantization: Quantization | None = None, rules: ShardingRules | None = None
) -> Qwen2:
    """Return the model whose tensors a streamer reads, each quantised before the next one where that is asked for."""
    transform = None if quantization is None else partial(quantize, kind=quantization, dtype=stream.dtype)
    config = stream.checkpoint.config
    layers = range(config.num_hidden_layers)
    return Qwen2(
        config,
        embedding=stream.single("embedding", "model.embed_tokens.weight"),
        layers={
            name: stream.stack(
                name,
                [tensor_name(name, layer) for layer in layers],
                transform if is_quantizable(name) else None,
            )
            for name in layer_shapes(config)
        },
        final_norm=stream.single("final_norm", "model.norm.weight"),
        lm_head=None if config.tie_word_embeddings else stream.single("lm_head", "lm_head.weight"),
        rules=rules,
    )


def save_pretrained(model: Qwen2, folder: str | Path) -> None:
    """Write config.json and weights, which transformers loads as Qwen2ForCausalLM."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder, np.dtype(model.dtype).name)
    save_weights(model, folder)


def save_weights(model: Qwen2, folder: Path) -> None:
    """Write the weights from the stacked arrays, one tensor at a time."""
    stacked = model.layer_weights()
    top = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.final_norm}
    if model.lm_head is not None:
        top["lm_head.weight"] = model.lm_head
    places = {
        tensor_name(name, layer): (name, layer) for layer in range(model.config.num_hidden_layers) for name in stacked
    }

    def tensor(name: str) -> np.ndarray:
        if name in top:
            return np.asarray(top[name].get_value())
        weight, layer = places[name]
        return np.asarray(stacked[weight][layer])

    write_checkpoint(folder, tensor_shapes(model.config), np.dtype(model.dtype), tensor)


def choose_dtype(name: str) -> jnp.dtype:
    """Return the dtype of the base for "float32", "bfloat16", "float16" or "auto"; raise UserError for another."""
    if name == "auto":
        if default_platform() != "gpu":
            return jnp.dtype(jnp.float32)
        return jnp.dtype(jnp.bfloat16 if gpu_compute_capability() >= (8, 0) else jnp.float16)
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype must be auto, float32, bfloat16 or float16, found {name!r}")
    return jnp.dtype(name)
