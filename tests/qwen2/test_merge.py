"""Merged models: what other readers of Hugging Face folders find in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from exchange import CONFIG, LOGITS, torch_logits
from safetensors.numpy import load_file, save_file

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import export_merged, load_pretrained

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data"


def copy_model(base: Path, folder: Path, dtype_of) -> Path:
    """Copy a model, each tensor in the dtype that `dtype_of(name)` says."""
    folder.mkdir()
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor.astype(dtype_of(name)) for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_the_merged_model_needs_no_adapter_here_or_in_transformers(base, adapter, expected, tmp_path):
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        (base / name).write_text(f'{{"file": "{name}"}}')
    export_merged(base, adapter, tmp_path)
    np.testing.assert_allclose(LOGITS(load_pretrained(tmp_path, "float32"), None), expected, atol=1e-4)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (base / name).read_bytes()
        (base / name).unlink()
    (tmp_path / "generation_config.json").unlink()

    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from transformers import Qwen2ForCausalLM

    found = torch_logits(Qwen2ForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_merging_keeps_the_dtype_of_the_base(base, adapter, tmp_path):
    half, tensors = tmp_path / "half", load_file(base / "model.safetensors")
    copy_model(base, half, lambda name: np.float16)
    export_merged(half, adapter, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {np.dtype(np.float16)}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["torch_dtype"] == "float16"
    name = "model.layers.1.self_attn.q_proj.weight"
    product = np.float64(adapter.weights["q_proj"]["a"][1]) @ np.float64(adapter.weights["q_proj"]["b"][1])
    np.testing.assert_allclose(merged[name], tensors[name] + adapter.scale * product.T, rtol=2e-3, atol=2e-3)


def test_tensors_of_several_dtypes_keep_theirs(base, adapter, tmp_path):
    mixed = copy_model(base, tmp_path / "mixed", lambda name: np.float32 if "norm" in name else np.float16)
    export_merged(mixed, adapter, tmp_path / "merged")
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert tensor.dtype == (np.float32 if "norm" in name else np.float16)


def test_a_large_model_is_merged_into_shards_that_both_we_and_transformers_load(base, adapter, expected, tmp_path):
    limit = 8_000
    export_merged(base, adapter, tmp_path, shard_bytes=limit)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    count = len(shards)
    assert set(shards) == {f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)}
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for tensors in shards.values() for tensor in tensors.values()
    )
    for tensors in shards.values():
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= limit
    np.testing.assert_allclose(LOGITS(load_pretrained(tmp_path, "float32"), None), expected, atol=1e-4)

    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from transformers import Qwen2ForCausalLM

    found = torch_logits(Qwen2ForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_model_saved_by_transformers_5_is_merged_into_what_older_readers_understand(base, adapter, tmp_path):
    torch = pytest.importorskip("torch", reason="transformers needs torch to save a model")
    from transformers import Qwen2ForCausalLM

    saved = tmp_path / "saved"
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16)
    model.save_pretrained(str(saved), max_shard_size="20KB")
    export_merged(saved, adapter, tmp_path / "merged")
    values = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert values["architectures"] == ["Qwen2ForCausalLM"]
    assert values["rope_theta"] == CONFIG.rope_theta
    assert values["torch_dtype"] == "bfloat16"
    assert values["tie_word_embeddings"] is False
    assert "dtype" not in values
    again = Qwen2ForCausalLM.from_pretrained(str(tmp_path / "merged"))
    assert (again.dtype, again.config.rope_parameters["rope_theta"]) == (torch.bfloat16, CONFIG.rope_theta)


def test_the_base_is_never_overwritten(base, adapter):
    with pytest.raises(UserError, match="is the base model itself"):
        export_merged(base, adapter, base)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"needs the published tokenizer in {PUBLISHED}")
@pytest.mark.parametrize("own_file", [False, True], ids=["template in the settings", "template in a file of its own"])
def test_the_published_tokenizer_template_and_generation_config_are_those_of_the_merged_model(
    base, adapter, tmp_path, own_file
):
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    published = shutil.copytree(base, tmp_path / "published")
    tokenizer, configuration = PUBLISHED / "qwen25_tokenizer", PUBLISHED / "qwen25_configs" / "7B-Instruct"
    for source in (*tokenizer.glob("*"), configuration / "generation_config.json"):
        if source.name != "test_vectors.json":
            shutil.copyfile(source, published / source.name)
    values = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(values | {"bos_token_id": 151643, "eos_token_id": 151645}))
    settings = json.loads((published / "tokenizer_config.json").read_text())
    template = settings.pop("chat_template")
    if own_file:
        (published / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        (published / "chat_template.jinja").unlink()
    merged = tmp_path / "merged"
    export_merged(published, adapter, merged)

    messages = [{"role": "user", "content": "How many apples are 3 × 4 apples?"}]
    ours, theirs = AutoTokenizer.from_pretrained(str(merged)), AutoTokenizer.from_pretrained(str(tokenizer))
    chat = ours.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat == theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ours.eos_token_id == AutoConfig.from_pretrained(str(merged)).eos_token_id == 151645
    assert GenerationConfig.from_pretrained(str(merged)).eos_token_id == [151645, 151643]
    # Where Ollama's converter looks for it, and it alone.
    assert json.loads((merged / "tokenizer_config.json").read_text())["chat_template"] == template
