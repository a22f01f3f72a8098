"""What the server answers: bodies and streamed events in OpenAI's form."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aflow_jax.qwen2 import Tokenizer
from aflow_jax.sampling import Completion, Progress

Kind = Literal["chat", "text"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: its prompts, each read once, and all that was drawn, end tokens included."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, int]:
        """Return the counts and their sum."""
        total = self.prompt_tokens + self.completion_tokens
        return {**vars(self), "total_tokens": total}


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Writes the reply to one request.

    Attributes:
        kind: "chat" or "text": of /v1/chat/completions or of /v1/completions.
        model: the name under which the client asked for the model.
        samples: completions of each prompt; a choice's index is prompt · samples + sample.
        tokenizer: of the model.
        end_tokens: those that end a completion: no part of its text, so left out of its log-probabilities.
        with_logprobs: whether choices state their log-probabilities.
    """

    kind: Kind
    model: str
    samples: int
    tokenizer: Tokenizer
    end_tokens: frozenset[int]
    with_logprobs: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion], usage: Usage) -> dict[str, Any]:
        """Return the body of a reply that is not streamed."""
        choices = [self._choice(completion) for completion in completions]
        choices.sort(key=lambda choice: choice["index"])
        return {**self._head(streamed=False), "choices": choices, "usage": usage.body()}

    def opening(self, prompts: int) -> list[dict[str, Any]]:
        """Return the events before the first text: in a chat, whose turn it is."""
        if self.kind == "text":
            return []
        delta = {"role": "assistant", "content": "", "refusal": None}
        choices = [{"index": index, "delta": delta, "logprobs": None} for index in range(prompts * self.samples)]
        return [self._event([{**choice, "finish_reason": None}]) for choice in choices]

    def progress(self, progress: Progress) -> list[dict[str, Any]]:
        """Return the events of some new tokens, and of the completion's end where that is reached."""
        index = progress.request * self.samples + progress.sample
        ended = progress.completion
        logprobs = self._logprobs(progress.tokens, progress.logprobs.tolist())
        events = []
        if progress.text or (logprobs and progress.tokens):
            events.append(self._event([self._part(index, progress.text, logprobs, None)]))
        if ended is not None:
            events.append(self._event([self._part(index, None, None, ended.finish_reason)]))
        return events

    def closing(self, usage: Usage) -> dict[str, Any]:
        """Return the last event, which states the usage."""
        return {**self._head(streamed=True), "choices": [], "usage": usage.body()}

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        names = {"chat": ("chatcmpl", "chat.completion"), "text": ("cmpl", "text_completion")}
        prefix, name = names[self.kind]
        if streamed and self.kind == "chat":
            name += ".chunk"
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head(streamed=True), "choices": choices}

    def _part(self, index: int, text: str | None, logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        """Return one choice of an event."""
        delta = {} if text is None else {"content": text}
        content = {"delta": delta} if self.kind == "chat" else {"text": text or ""}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    def _choice(self, completion: Completion) -> dict[str, Any]:
        if self.kind == "chat":
            content: dict[str, Any] = {
                "message": {"role": "assistant", "content": completion.text, "refusal": None, "annotations": []}
            }
        else:
            content = {"text": completion.text}
        return {
            "index": completion.request * self.samples + completion.sample,
            **content,
            "logprobs": self._logprobs(completion.tokens, completion.logprobs.tolist()),
            "finish_reason": completion.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        pairs = [pair for pair in zip(tokens, logprobs, strict=True) if pair[0] not in self.end_tokens]
        pieces = [self.tokenizer.token_bytes(token) for token, _ in pairs]
        # A token may hold half a character: `bytes` are exact, the name is for reading.
        names = [piece.decode("utf-8", "replace") for piece in pieces]
        if self.kind == "text":
            return {"tokens": names, "token_logprobs": [logprob for _, logprob in pairs]}
        content = [
            {"token": name, "logprob": logprob, "bytes": list(piece), "top_logprobs": []}
            for name, piece, (_, logprob) in zip(names, pieces, pairs, strict=True)
        ]
        return {"content": content, "refusal": None}
