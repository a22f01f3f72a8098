"""Which steps' rollouts are under way: the current step's, and the next one's where sampling runs ahead.

    update s−1 ─► sample s+1 ─────► update s ─► sample s+2 ─────► update s+1
                  execute s ──────┘             execute s+1 ────┘

The rollouts of step s + 1 are then always those of the policy after update s − 1, however long anything takes: one
update behind, and the same in every run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aflow_jax.collector import Collected, Collection
from aflow_jax.sampling import Completion


class Pipeline:
    """The collections of the current step and, with `ahead`, of the next one."""

    def __init__(
        self,
        start: Callable[[int], Collection],
        start_from: Callable[[int, Sequence[Completion]], Collection],
        *,
        ahead: bool,
        last: int,
    ) -> None:
        """Args:
        start: begins the rollouts of a step with the policy as it is.
        start_from: begins them with completions that were sampled before.
        ahead: whether the next step's begin while this step's are under way.
        last: the last step.
        """
        self._start, self._start_from = start, start_from
        self._ahead, self._last = ahead, last
        self._under_way: dict[int, Collection] = {}
        self._behind: set[int] = set()  # steps sampled ahead, by a policy that is an update behind

    def is_off_policy(self, step: int) -> bool:
        """Return whether the step's rollouts are those of a policy one update behind."""
        return step in self._behind

    async def rollouts(self, step: int) -> Collected:
        """Return the rollouts of a step, while the next one's are sampled where that is wanted."""
        if step not in self._under_way:
            self._under_way[step] = self._start(step)
        if self._ahead and step < self._last and step + 1 not in self._under_way:
            self._under_way[step + 1] = self._start(step + 1)
            self._behind.add(step + 1)
        return await self._under_way[step].collected()

    async def settle(self, step: int) -> None:
        """Return when nothing is being sampled any more that must be before the update of a step."""
        if step + 1 in self._under_way:
            await self._under_way[step + 1].sampled()

    def drop(self, step: int) -> None:
        """Forget a step that is done."""
        self._under_way.pop(step, None)
        self._behind.discard(step)

    def text(self, step: int) -> str | None:
        """Return the completions that were sampled ahead for a step, for `resume`; None where there are none."""
        if step not in self._behind:
            return None
        return json.dumps([_as_record(completion) for completion in self._under_way[step].completions()])

    def resume(self, step: int, text: str) -> None:
        """Begin a step with the completions that an earlier process sampled ahead for it."""
        self._under_way[step] = self._start_from(step, [_from_record(record) for record in json.loads(text)])
        self._behind.add(step)

    async def close(self) -> None:
        """End what is under way."""
        for collection in self._under_way.values():
            await collection.cancel()


def _as_record(completion: Completion) -> dict[str, Any]:
    # A float32 has an exact double, and a double's shortest text reads back as the same double.
    return vars(completion) | {"logprobs": np.asarray(completion.logprobs, np.float64).tolist()}


def _from_record(record: dict[str, Any]) -> Completion:
    tuples = {name: tuple(record[name]) for name in ("prompt_tokens", "tokens")}
    return Completion(**record | tuples | {"logprobs": np.array(record["logprobs"], np.float32)})
