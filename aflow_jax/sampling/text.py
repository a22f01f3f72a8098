"""Tokens → text as they come, and the stop strings in it."""

from collections.abc import Sequence

from aflow_jax.qwen2 import Tokenizer

# What decoding puts where bytes are no UTF-8, as at the end of a text whose last character is not whole yet.
INCOMPLETE = "\ufffd"


class TextStream:
    """The text of a completion that grows.

    Attributes:
      stopped: Whether a stop string has appeared; nothing is taken in after it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._reach = max((len(string) for string in stop), default=0)
        # Text of whole characters that was not given out yet, and the tokens behind it.
        self._text = ""
        self._pending: list[int] = []
        self._given = ""

    @property
    def text(self) -> str:
        """All the text that `take` gave out so far."""
        return self._given

    def push(self, tokens: Sequence[int]) -> int:
        """Take in tokens, up to the one that completes a stop string; return how many that were."""
        if self._stop and tokens and self._find_stop(tokens) is not None:
            # Seldom, so one by one: the first token with which the stop string is there.
            for count in range(1, len(tokens) + 1):
                if (end := self._find_stop(tokens[:count])) is not None:
                    self._text, self._pending, self.stopped = end, [], True
                    return count
        self._pending.extend(tokens)
        piece = self._tokenizer.decode(self._pending) if self._pending else ""
        if not piece.endswith(INCOMPLETE):
            self._text += piece
            self._pending = []
        return len(tokens)

    def take(self, *, ended: bool = False) -> str:
        """Give out the text that is certain since the last call; all of it where the completion ended."""
        if ended:
            self._text += self._tokenizer.decode(self._pending) if self._pending else ""
            self._pending = []
        kept = 0 if ended or self.stopped else self._held_back()
        given, self._text = self._text[: len(self._text) - kept], self._text[len(self._text) - kept :]
        self._given += given
        return given

    def _find_stop(self, tokens: Sequence[int]) -> str | None:
        """Return the text not given out yet, up to the first stop string after these tokens; None without one."""
        text = self._text + self._tokenizer.decode([*self._pending, *tokens]).rstrip(INCOMPLETE)
        starts = [start for string in self._stop if (start := text.find(string)) >= 0]
        return text[: min(starts)] if starts else None

    def _held_back(self) -> int:
        """Characters at the end of the text that may become a stop string."""
        for length in range(min(self._reach - 1, len(self._text)), 0, -1):
            if any(string.startswith(self._text[-length:]) for string in self._stop):
                return length
        return 0
