"""Text to token ids and back, with the model folder's own tokenizer and chat template."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aflow_jax.errors import UserError
from aflow_jax.qwen2.config import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters: no template holds them, and none of them is trimmed, escaped or split.
_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

# Byte-level BPE writes each byte as one letter (Radford et al. 2019): itself where that is a visible character of
# Latin-1, else the next letter from U+0100 on.
_VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = tuple(byte for byte in range(256) if byte not in _VISIBLE)
_BYTES = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}


class Tokenizer:
    """A tokenizer whose chat encoding cannot be steered by what messages contain.

    Attributes:
      eos_token_ids: Tokens that end a completion, from generation_config.json, else config.json, else the tokenizer.
      pad_token_id: Fills rows behind their end.
      special_token_ids: Tokens that only the template writes, and that decoding leaves out.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", eos_token_ids: tuple[int, ...], pad_token_id: int) -> None:
        self._tokenizer = tokenizer
        self._special_ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._special = re.compile("|".join(re.escape(token) for token in self._special_ids))
        # Added tokens that are not special, such as Qwen2.5's `<tool_call>`, are split by no setting of transformers:
        # a text is cut behind their first character.
        others = [token for token in tokenizer.get_added_vocab() if token not in self._special_ids]
        cuts = "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in others)
        self._cut = re.compile(cuts or "(?!)")
        self.eos_token_ids = eos_token_ids
        self.pad_token_id = pad_token_id
        self.special_token_ids = tuple(self._special_ids.values())

    def __len__(self) -> int:
        """Return one more than the largest token id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text: the names of special and other added tokens in it are text like any other."""
        ids: list[int] = []
        for piece in self._cut.split(text):
            ids += self._tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> list[int]:
        """Return the ids of a conversation, ready for the assistant to go on.

        Only the template's own markup becomes special tokens; `<|im_end|>` inside a message is text. For messages
        without the names of special tokens the ids are those of transformers' `apply_chat_template`.

        Args:
          messages: [{"role": …, "content": …}, …].
          add_generation_prompt: Whether to open the assistant's turn at the end.
        """
        contents = [message["content"] for message in messages]
        marked = [{**message, "content": f"{_OPEN}{at}{_CLOSE}"} for at, message in enumerate(messages)]
        template = self._tokenizer.apply_chat_template(
            marked, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        ids: list[int] = []
        end = 0
        for special in self._special.finditer(template):
            ids += self._encode_piece(template[end : special.start()], contents)
            ids.append(self._special_ids[special[0]])
            end = special.end()
        return ids + self._encode_piece(template[end:], contents)

    def decode(self, ids: Sequence[int], *, with_special: bool = False) -> str:
        """Return the text of ids, special tokens left out or written; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=not with_special, clean_up_tokenization_spaces=False
        )

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for, perhaps part of a character; none for a special token.

        The tokens' bytes one after the other are the text that `decode` reads as UTF-8.
        """
        if token in self.special_token_ids:
            return b""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:  # the model's vocabulary is padded beyond the tokenizer's
            return b""
        if all(letter in _BYTES for letter in name):
            return bytes(_BYTES[letter] for letter in name)
        return name.encode()

    def spellings(self) -> list[bytes | None]:
        """Return for each token id the bytes that it stands for; None for added tokens, such as a template's markup.

        Raises:
          UserError: the tokenizer is no byte-level BPE, whose tokens are all made of bytes.
        """
        added = set(self._tokenizer.get_added_vocab().values())
        spellings: list[bytes | None] = [None] * len(self)
        for text, token in self._tokenizer.get_vocab().items():
            if token in added:
                continue
            try:
                spellings[token] = bytes(_BYTES[letter] for letter in text)
            except KeyError:
                raise UserError(f"the tokenizer is no byte-level BPE: its token {token} is {text!r}") from None
        return spellings

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and chat template into a folder."""
        self._tokenizer.save_pretrained(str(folder))

    def _encode_piece(self, piece: str, contents: Sequence[str]) -> list[int]:
        """Encode markup between two special tokens, with the messages in their places."""
        return self.encode_text(_PLACEHOLDER.sub(lambda match: contents[int(match[1])], piece)) if piece else []


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of a model folder.

    Raises:
      UserError: the folder has no tokenizer, no chat template or no end token.
    """
    # It would advise to install PyTorch, which is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Imported here: it takes seconds, and training from token files or listing settings needs none of it.
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):
        raise UserError(f"{folder} has no tokenizer: expected tokenizer.json and tokenizer_config.json")
    if (folder / "tokenizer.json").is_file() and "model" not in read_json(folder / "tokenizer.json"):
        raise UserError(f"{folder}/tokenizer.json has no model: download it again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder}: the tokenizer cannot be loaded ({reason}): download it again") from None
    if not tokenizer.chat_template:
        raise UserError(f"{folder} has no chat template: add chat_template.jinja, or take an Instruct model")
    eos_token_ids = _eos_token_ids(folder, tokenizer.eos_token_id)
    pad_token_id = eos_token_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return Tokenizer(tokenizer, eos_token_ids, pad_token_id)


def _eos_token_ids(folder: Path, default: int | None) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        if value is not None:
            return tuple(value) if isinstance(value, list) else (value,)
    if default is None:
        raise UserError(f"{folder}: no eos_token_id in generation_config.json or config.json: add it")
    return (default,)
