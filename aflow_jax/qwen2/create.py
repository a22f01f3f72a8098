"""Make a small Qwen2.5-architecture checkpoint in the Hugging Face layout, with its own tokenizer."""

import json
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from aflow_jax.errors import UserError
from aflow_jax.qwen2.checkpoint import save_config
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.device import host_device
from aflow_jax.qwen2.model import Qwen2, init_random
from aflow_jax.qwen2.weights import save_weights

_EMBEDDING_DEVIATION = 0.2
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# How Qwen2 cuts text before byte-pair merges: contractions, words, single digits, punctuation, line ends, spaces.
_PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Turns as Qwen2.5 writes them: a system turn always comes first, its own one where the caller gives none.
_CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def create_checkpoint(
    folder: str | Path,
    *,
    texts: Iterable[str],
    seed: int,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    vocab_size: int,
    tie_word_embeddings: bool = True,
    max_position_embeddings: int = 32768,
) -> None:
    """Write a model folder that transformers' AutoTokenizer and Qwen2ForCausalLM load.

    The weights are random (`init_random`), float32. The tokenizer is a byte-level BPE trained on `texts`, with Qwen2's
    pre-tokenizer; where the texts are too few it is smaller than `vocab_size`, as Qwen's own is.

    Args:
      folder: Made where it is missing.
      texts: What the tokenizer is trained on.
      seed: Seed of the weights.
      vocab_size: Rows of the embedding, at least 259: 256 bytes and 3 special tokens.
      hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
        tie_word_embeddings, max_position_embeddings: As in Qwen2Config.

    Raises:
      UserError: sizes that do not make a model.
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size must be at least {256 + len(SPECIAL_TOKENS)}, found {vocab_size}")
    config = Qwen2Config.from_dict(
        {
            "model_type": "qwen2",
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
            "vocab_size": vocab_size,
            "rope_theta": 1e6,
            "tie_word_embeddings": tie_word_embeddings,
            "max_position_embeddings": max_position_embeddings,
        },
        place="create_checkpoint",
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab_size)
    save_tokenizer(tokenizer, folder)
    end_of_text, _, end_of_turn = (tokenizer.token_to_id(token) for token in SPECIAL_TOKENS)
    save_config(config, folder, "float32", {"bos_token_id": end_of_text, "eos_token_id": end_of_turn})
    generation = {
        "bos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "do_sample": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    # On a CPU, so that the model is the same on every machine; a GPU would take longer to compile it than to train it.
    with jax.default_device(host_device()):
        save_weights(_with_range(init_random(config, jax.random.key(seed), jnp.float32)), folder)


def _with_range(model: Qwen2) -> Qwen2:
    """Scale the random weights so that an adapter on them can learn.

    With deviation 0.02 a small model's logits cannot leave ±3, whatever an adapter adds, since its embedding's rows are
    so short. Here projections keep the variance of what passes through them, and rows of the embedding have length
    about 2 at width 128.
    """
    model.embedding.set_value(model.embedding.get_value() * (_EMBEDDING_DEVIATION / 0.02))
    for name, weight in model.layers.items():
        if name.endswith("proj"):
            value = weight.get_value()
            weight.set_value(value / 0.02 * value.shape[-1] ** -0.5)
    return model


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens; the special tokens take the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(at): {"content": token, **flags} for token, at in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 32768,
        "chat_template": _CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
