"""Model folders: what loads, in which dtype, what is refused and how it is said."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, tensor_maker, write_model
from safetensors.numpy import load_file, save_file

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import Qwen2Config, choose_dtype, load_pretrained, save_pretrained
from aflow_jax.qwen2.checkpoint import tensor_name

CONFIG = SHAPES["heads 4 over 4, untied"].config()


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_model(CONFIG, tmp_path / "model")


def shard(folder: Path) -> None:
    """Cut model.safetensors in two, as large checkpoints come."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_tensor_lands_in_its_layer(folder):
    model, tensor = load_pretrained(folder, "float32"), tensor_maker(CONFIG)
    np.testing.assert_array_equal(model.embedding.get_value(), tensor("model.embed_tokens.weight"))
    np.testing.assert_array_equal(model.lm_head.get_value(), tensor("lm_head.weight"))
    np.testing.assert_array_equal(model.final_norm.get_value(), tensor("model.norm.weight"))
    for name, stack in model.layer_weights().items():
        expected = np.stack([tensor(tensor_name(name, layer)) for layer in range(CONFIG.num_hidden_layers)])
        np.testing.assert_array_equal(stack, expected)


def test_shards_load_as_one_file_does(folder):
    whole = load_pretrained(folder, "float32")
    shard(folder)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder, "float32"), whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_to_the_dtype_asked_for(folder, dtype):
    half = load_pretrained(folder, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(dtype)}
    jax.tree.map(
        lambda leaf, exact: np.testing.assert_array_equal(leaf, exact.astype(dtype)),
        half,
        load_pretrained(folder, "float32"),
    )


def test_auto_means_float32_without_a_gpu(folder):
    if jax.default_backend() != "cpu":
        pytest.skip("this machine computes on another device than the CPU")
    assert choose_dtype("auto") == load_pretrained(folder, "float32").dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_loads_as_it_was_and_is_read_by_safetensors(folder, tmp_path, dtype):
    model = load_pretrained(folder, dtype=dtype)
    save_pretrained(model, tmp_path / "saved")
    again = load_pretrained(tmp_path / "saved", dtype=dtype)
    jax.tree.map(np.testing.assert_array_equal, model, again)
    assert again.config == CONFIG
    read = load_file(tmp_path / "saved" / "model.safetensors")
    np.testing.assert_array_equal(read["model.norm.weight"], model.final_norm.get_value())


REFUSED = {
    "missing tensor": (
        lambda folder: change_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")),
        r"model: tensor model\.layers\.1\.mlp\.up_proj\.weight is missing, expected shape \[72, 32\]",
    ),
    "extra tensor": (
        lambda folder: change_tensors(folder, lambda tensors: tensors.update({"model.extra": np.zeros(2)})),
        r"tensor model\.extra is not part of the model that config\.json describes",
    ),
    "misshapen tensor": (
        lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({"model.layers.0.self_attn.k_proj.bias": np.zeros(5, np.float32)})
        ),
        r"model\.layers\.0\.self_attn\.k_proj\.bias: expected shape \[32\], found \[5\]",
    ),
    "integer tensor": (
        lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({"model.norm.weight": np.zeros(32, np.int8)})
        ),
        r"model\.norm\.weight: expected dtype F32, F16, BF16, found I8: use an unquantised checkpoint",
    ),
    "head that config.json ties": (
        lambda folder: change_config(folder, tie_word_embeddings=True),
        r"tensor lm_head\.weight is not part of the model",
    ),
    "more layers than there are": (
        lambda folder: change_config(folder, num_hidden_layers=4),
        r"model\.layers\.3\.input_layernorm\.weight is missing",
    ),
    "truncated data": (
        lambda folder: truncate(folder / "model.safetensors", -100),
        r"model\.safetensors is truncated: \S+ should end at byte \d+, the file has \d+: download it again",
    ),
    "truncated header": (
        lambda folder: truncate(folder / "model.safetensors", 60),
        r"model\.safetensors is truncated or is not a safetensors file",
    ),
    "empty file": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        r"model\.safetensors is truncated or is not a safetensors file",
    ),
    "another file": (
        lambda folder: (folder / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"not json"),
        r"model\.safetensors has no valid safetensors header",
    ),
    "missing shard": (
        lambda folder: (shard(folder), (folder / "model-2.safetensors").unlink()),
        r"model-2\.safetensors is missing, though model\.safetensors\.index\.json names it",
    ),
    "tensor in two shards": (
        lambda folder: (shard(folder), shutil.copyfile(folder / "model-1.safetensors", folder / "model-2.safetensors")),
        r"model-2\.safetensors: tensor \S+ is in model-1\.safetensors too: download both again",
    ),
    "tensor cut short in the header": (
        lambda folder: spoil_header(folder / "model.safetensors"),
        r"model\.safetensors: model\.embed_tokens\.weight has 4 bytes, not what its shape and dtype say",
    ),
    "shard with another index": (
        lambda folder: (shard(folder), change_index(folder, lambda index: index.pop("weight_map"))),
        r"model\.safetensors\.index\.json has no weight_map: download it again",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"model has no weights: expected model\.safetensors",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"config\.json is missing: give a model folder in the Hugging Face layout",
    ),
    "broken config": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json is not valid JSON",
    ),
    "no folder": (lambda folder: shutil.rmtree(folder), r"model is missing: give a folder with config\.json"),
    "a file": (
        lambda folder: (shutil.rmtree(folder), folder.write_text("")),
        r"model is a file, not a model folder",
    ),
    "another model type": (
        lambda folder: change_config(folder, model_type="llama"),
        r"config\.json: model_type must be 'qwen2' \(Qwen2\.5\), found 'llama'",
    ),
    "scaled rope": (
        lambda folder: change_config(folder, rope_scaling={"type": "yarn", "factor": 4.0}),
        r"rope_scaling must be absent or of type 'default', found 'yarn'",
    ),
    "scaled rope, as transformers 5 writes it": (
        lambda folder: change_config(folder, rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}),
        r"rope_parameters must be absent or of type 'default', found 'yarn'",
    ),
    "sliding window, as transformers 5 writes it": (
        lambda folder: change_config(folder, layer_types=["full_attention", "sliding_attention"]),
        r"use_sliding_window must be false, sliding-window attention is not supported",
    ),
    "sliding window": (
        lambda folder: change_config(folder, use_sliding_window=True),
        r"use_sliding_window must be false",
    ),
    "quantised checkpoint": (
        lambda folder: change_config(folder, quantization_config={"quant_method": "gptq"}),
        r"quantization_config \('gptq'\) is not supported",
    ),
    "heads that do not divide": (
        lambda folder: change_config(folder, num_key_value_heads=3),
        r"num_key_value_heads must divide num_attention_heads 4, found 3",
    ),
    "size that is no number": (
        lambda folder: change_config(folder, hidden_size="32"),
        r"hidden_size must be a positive integer, found '32'",
    ),
}


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def spoil_header(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.embed_tokens.weight"]["data_offsets"] = [0, 4]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def change_index(folder: Path, change) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_model_is_refused_in_one_line(folder, case):
    spoil, message = REFUSED[case]
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(folder, "float32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"quantization": "int3"}])
def test_unknown_precision_is_refused(folder, settings):
    with pytest.raises(UserError, match=r"int8|int3"):
        load_pretrained(folder, **settings)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        ({}, 1e4),
    ],
    ids=["older files", "transformers 5", "default"],
)
def test_the_rotary_base_is_found_where_either_format_keeps_it(values, expected):
    config = CONFIG.to_dict()
    del config["rope_theta"]
    assert Qwen2Config.from_dict(config | values).rope_theta == expected


def test_a_config_survives_its_file(folder):
    assert Qwen2Config.from_folder(folder) == CONFIG
