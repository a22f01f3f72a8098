"""Adapters as PEFT folders, exchanged with peft in both directions."""

import json

import jax
import numpy as np
import pytest
from exchange import CONFIG, LOGITS, torch_logits
from safetensors.numpy import load_file, save_file

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import load_peft, load_pretrained, save_peft


def test_peft_loads_our_adapter_and_computes_our_logits(base, adapter, expected, tmp_path):
    peft = pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    save_peft(adapter, tmp_path, base_model=str(base))
    model = Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    plain = torch_logits(model)
    found = torch_logits(peft.PeftModel.from_pretrained(model, str(tmp_path)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - plain).max() > 0.1


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["alpha / r", "alpha / sqrt(r)"])
def test_we_load_what_peft_saved_and_compute_its_logits(base, tmp_path, rank_stabilised):
    peft = pytest.importorskip("peft", reason="the exchange with PEFT needs it installed")
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=0.2,
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
        use_rslora=rank_stabilised,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(Qwen2ForCausalLM.from_pretrained(str(base), dtype=torch.float32), settings)
    model.save_pretrained(str(tmp_path))
    ours = load_peft(tmp_path, CONFIG)
    assert (ours.rank, ours.targets, ours.dropout) == (4, ("q_proj", "v_proj", "down_proj"), 0.2)
    assert ours.scale == pytest.approx(6 / 2 if rank_stabilised else 6 / 4)
    np.testing.assert_allclose(LOGITS(load_pretrained(base), ours), torch_logits(model), atol=1e-4)


def test_an_adapter_survives_its_folder(adapter, tmp_path):
    save_peft(adapter, tmp_path, base_model="Qwen/Qwen2.5-7B-Instruct")
    again = load_peft(tmp_path, CONFIG)
    assert (again.scale, again.dropout) == (adapter.scale, adapter.dropout)
    jax.tree.map(np.testing.assert_array_equal, again.weights, adapter.weights)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"], values["use_rslora"]) == (3, 6, False)
    assert values["base_model_name_or_path"] == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', found 'IA3'"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias must be 'none', found 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is not supported, found \['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base"),
        ({"r": 4}, r"layers\.0\.self_attn\.q_proj\.lora_A\.weight: expected shape \[4, 32\], found \[3, 32\]"),
        ({"r": None}, "r must be a positive integer"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(adapter, tmp_path, values, message):
    save_peft(adapter, tmp_path, base_model="base")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message):
        load_peft(tmp_path, CONFIG)


def test_incomplete_folders_are_refused(adapter, tmp_path):
    with pytest.raises(UserError, match=r"has no adapter_config\.json: give a PEFT adapter folder"):
        load_peft(tmp_path, CONFIG)
    save_peft(adapter, tmp_path, base_model="base")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"up_proj\.lora_B\.weight is missing, expected shape \[72, 3\]"):
        load_peft(tmp_path, CONFIG)
    save_file(tensors | {"base_model.model.lm_head.lora_A.weight": np.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.lora_A\.weight is not part of an adapter on this model"):
        load_peft(tmp_path, CONFIG)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load_peft(tmp_path, CONFIG)
