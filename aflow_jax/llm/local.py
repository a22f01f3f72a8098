"""The executor LLM without a server: the model of this process answers, behind the client that any endpoint has."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aflow_jax.llm.reply import LLMFault, TooLong


@dataclass(frozen=True)
class Generated:
    """What the model wrote.

    Attributes:
        text: the reply.
        prompt_tokens: tokens of the conversation.
        completion_tokens: tokens drawn.
        cut: whether the bound ended it.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool


class PromptRefused(Exception):
    """The conversation does not fit the model."""


class Generate(Protocol):
    """Writes the reply to a conversation; a function of its arguments alone. Cancelling it frees what it holds."""

    async def __call__(
        self, messages: Sequence[dict[str, str]], *, temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> Generated:
        """Return the reply; raise PromptRefused when the conversation is too long."""
        ...


class LocalExchange:
    """Answers the requests of an LLMClient in this process, in place of an HTTP exchange, in the same form."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def post(self, path: str, body: dict[str, Any], *, timeout: float) -> bytes:
        """Return the body of the answer, after `timeout` seconds at most.

        Raises:
            LLMFault: no complete answer in time.
            TooLong: a conversation that does not fit.
        """
        failure: LLMFault
        try:
            async with asyncio.timeout(timeout):
                generated = await self._generate(
                    body["messages"],
                    temperature=body["temperature"],
                    top_p=body["top_p"],
                    max_tokens=body["max_tokens"],
                    seed=body.get("seed", _seed_of(body)),
                )
        except TimeoutError:
            failure = LLMFault("LLM_UNAVAILABLE", f"no complete reply within {timeout:g} s")
        except PromptRefused as refusal:
            failure = TooLong(str(refusal))
        else:
            return _chat_completion(generated)
        raise failure

    async def aclose(self) -> None:
        """Nothing is held between requests."""


def _seed_of(body: dict[str, Any]) -> int:
    """Return a seed for a request that states none: the same for the same request."""
    text = json.dumps(body, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _chat_completion(generated: Generated) -> bytes:
    message = {"role": "assistant", "content": generated.text}
    finish_reason = "length" if generated.cut else "stop"
    usage = {"prompt_tokens": generated.prompt_tokens, "completion_tokens": generated.completion_tokens}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": usage}).encode()
