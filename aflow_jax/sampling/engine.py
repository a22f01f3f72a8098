"""The engine: one model and how it is sampled; `generate` for a batch, `scheduler` for requests that come and go."""

from collections.abc import Iterator, Sequence
from typing import Literal

from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer
from aflow_jax.sampling.decode import BaseWeights
from aflow_jax.sampling.scheduler import Scheduler
from aflow_jax.sampling.types import Completion, Request, SamplingParams


class Engine:
    """Samples completions from one model, with the adapter given at each call.

    Attributes:
      truncated_prompts: Prompts of `generate` cut to prompt_max_length so far.
    """

    def __init__(
        self,
        model: Qwen2,
        tokenizer: Tokenizer,
        *,
        slots: int,
        prompt_max_length: int,
        long_prompts: Literal["error", "truncate"] = "error",
        chunk_length: int = 16,
        drafted: int = 0,
    ) -> None:
        """Make an engine; nothing is compiled or allocated before the first call.

        Args:
          model: The frozen base.
          tokenizer: Decodes completions, and names the end tokens.
          slots: Sequences that decode together, at most.
          prompt_max_length: Longest prompt, in tokens.
          long_prompts: What becomes of a longer one: "error", or "truncate", which keeps its last tokens and counts it.
          chunk_length: Tokens between two looks at which completions ended.
          drafted: Tokens that prompt lookup drafts for each pass (`lookup`), below `chunk_length`; 0 is off.
        """
        if not 0 <= drafted < chunk_length:
            raise ValueError(f"drafted must be from 0 to {chunk_length - 1}, found {drafted}")
        self.model = model
        self.tokenizer = tokenizer
        self.slots = slots
        self.prompt_max_length = prompt_max_length
        self.long_prompts = long_prompts
        self.chunk_length = chunk_length
        self.drafted = drafted
        self.truncated_prompts = 0
        self._base = BaseWeights(model)

    def scheduler(self) -> Scheduler:
        """Return a new scheduler on this engine's model, for requests that come at any time."""
        return Scheduler(
            self.model,
            self.tokenizer,
            self._base,
            slots=self.slots,
            prompt_max_length=self.prompt_max_length,
            long_prompts=self.long_prompts,
            chunk_length=self.chunk_length,
            drafted=self.drafted,
        )

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, adapter: Adapter | None = None
    ) -> Iterator[Completion]:
        """Yield each completion when it ends; closing the iterator frees all that the call holds.

        Args:
          requests: Started in this order.
          params: How tokens are drawn, for all of them.
          adapter: The policy's adapter; None samples from the base model.

        Raises:
          UserError: a prompt above prompt_max_length where that is an error, or prompt and completion together above
            the positions that the model knows.
        """
        scheduler = self.scheduler()
        for request in requests:
            scheduler.submit(request, params, adapter)
        self.truncated_prompts += scheduler.truncated_prompts
        return _completions(scheduler)


def _completions(scheduler: Scheduler) -> Iterator[Completion]:
    while not scheduler.idle:
        for progress in scheduler.step():
            if progress.completion:
                yield progress.completion
