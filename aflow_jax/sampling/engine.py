"""The engine: one model and how it is sampled; `generate` for a batch, `scheduler` for requests that come and go."""

from collections.abc import Iterator, Sequence
from typing import Any

from aflow_jax.qwen2 import Adapter, Qwen2, Tokenizer
from aflow_jax.sampling.lane import PageCounts
from aflow_jax.sampling.scheduler import Scheduler
from aflow_jax.sampling.types import Completion, EngineOptions, Request, SamplingParams


class Engine:
    """Samples completions from one model, with the adapter given at each call.

    Attributes:
      truncated_prompts: Prompts of `generate` cut to prompt_max_length so far.
    """

    def __init__(self, model: Qwen2, tokenizer: Tokenizer, **options: Any) -> None:
        """Make an engine; nothing is compiled or allocated before the first call.

        Args:
          model: The frozen base.
          tokenizer: Decodes completions, and names the end tokens.
          options: The fields of `EngineOptions`; `slots` and `prompt_max_length` must be given.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.options = EngineOptions(**options)
        self.truncated_prompts = 0
        self._page_counts: PageCounts = {}

    def scheduler(self) -> Scheduler:
        """Return a new scheduler on this engine's model, for requests that come at any time."""
        return Scheduler(self.model, self.tokenizer, self.options, self._page_counts)

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
