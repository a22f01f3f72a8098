"""The base model as executor LLM: replies drawn by the driver that samples the policy, with the adapter off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aflow_jax.llm import Generated, PromptRefused
from aflow_jax.qwen2 import Qwen2, Tokenizer
from aflow_jax.sampling import Driver, Request, SamplingParams, seed_words


@dataclass(frozen=True)
class BaseModel:
    """Writes replies to conversations: `Generate` of aflow_jax.llm.

    A reply is a function of weights, conversation and arguments alone. It decodes beside the policy's completions, and
    neither waits for the other to end.
    """

    driver: Driver
    model: Qwen2
    tokenizer: Tokenizer

    async def __call__(
        self, messages: Sequence[dict[str, str]], *, temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> Generated:
        """Return the reply; when the call is cancelled, its slot is free.

        Raises:
            PromptRefused: the conversation leaves no room for a reply.
            DeviceFailure: the device thread has ended by an error.
        """
        prompt = tuple(self.tokenizer.encode_chat(messages))
        positions = self.model.config.max_position_embeddings
        room = positions - len(prompt)
        if room < 1:
            raise PromptRefused(f"a prompt of {len(prompt)} tokens, and the model knows {positions} positions")
        request = Request(prompt_tokens=prompt, seeds=((*seed_words(seed), 0),))
        params = SamplingParams(max_new_tokens=min(max_tokens, room), temperature=temperature, top_p=top_p)
        async with self.driver.submit([request], params, prompt_max_length=positions) as stream:
            (completion,) = [completion async for completion in stream.completions()]
        return Generated(
            text=completion.text,
            prompt_tokens=len(prompt),
            completion_tokens=len(completion.tokens),
            cut=completion.finish_reason == "length",
        )
