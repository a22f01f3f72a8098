"""The pipeline: what is sampled ahead, by which policy, and what a checkpoint keeps of it."""

import asyncio
import json

import numpy as np
import pytest

from aflow_jax.sampling import Completion
from aflow_jax.training.pipeline import Pipeline

COMPLETION = Completion(
    prompt_tokens=(1, 2), tokens=(3, 4), logprobs=np.array([-0.1, -1e-30], np.float32), finish_reason="stop",
    text="<workflow>Custom</workflow> ∑", request=0, sample=1,
)  # fmt: skip


class Rollouts:
    """Stands for a collection: notes the policy that it was begun with."""

    def __init__(self, policy: int, completions=(COMPLETION,)) -> None:
        self.policy, self._completions, self.cancelled = policy, list(completions), False

    async def collected(self) -> int:
        return self.policy

    async def sampled(self) -> list[Completion]:
        return self._completions

    def completions(self) -> list[Completion]:
        return self._completions

    async def cancel(self) -> None:
        self.cancelled = True


def policies(ahead: bool, steps: int, resumed_at: int | None = None) -> list[tuple[int, bool]]:
    """Return for each step the number of updates of the policy that wrote its rollouts, and whether it is behind."""
    updates, texts = [0], {}

    async def run(first: int) -> list[tuple[int, bool]]:
        used = []
        pipeline = Pipeline(
            lambda step: Rollouts(updates[0]),
            lambda step, completions: Rollouts(-1, completions),
            ahead=ahead,
            last=steps,
        )
        if first > 1 and texts[first - 1] is not None:
            pipeline.resume(first, texts[first - 1])
        for step in range(first, steps + 1):
            used.append((await pipeline.rollouts(step), pipeline.is_off_policy(step)))
            await pipeline.settle(step)
            updates[0] += 1
            pipeline.drop(step)
            texts[step] = pipeline.text(step + 1)
        await pipeline.close()
        return used

    used = asyncio.run(run(1))
    if resumed_at:
        updates[0] = resumed_at - 1
        used[resumed_at - 1 :] = asyncio.run(run(resumed_at))
    return used


def test_without_it_each_step_is_written_by_the_policy_that_it_updates() -> None:
    assert policies(False, 4) == [(0, False), (1, False), (2, False), (3, False)]


def test_with_it_each_step_after_the_first_is_one_update_behind() -> None:
    assert policies(True, 4) == [(0, False), (0, True), (1, True), (2, True)]


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_resumed_run_uses_what_was_sampled_ahead_and_goes_on_as_before(at: int) -> None:
    expected = policies(True, 4)
    expected[at - 1] = (-1, True)  # begun from the completions in the checkpoint
    assert policies(True, 4, resumed_at=at) == expected


def test_completions_come_back_from_a_checkpoint_bit_for_bit() -> None:
    async def there_and_back() -> Completion:
        pipeline = Pipeline(lambda step: Rollouts(0), lambda step, texts: Rollouts(0, texts), ahead=True, last=9)
        await pipeline.rollouts(1)
        text = pipeline.text(2)
        assert json.loads(text)[0]["tokens"] == [3, 4]
        other = Pipeline(lambda step: Rollouts(0), lambda step, texts: Rollouts(0, texts), ahead=True, last=9)
        other.resume(2, text)
        return json.loads(other.text(2)) == json.loads(text) and other._under_way[2].completions()[0]

    back = asyncio.run(there_and_back())
    assert vars(back) | {"logprobs": 0} == vars(COMPLETION) | {"logprobs": 0}
    assert back.logprobs.tobytes() == COMPLETION.logprobs.tobytes()
    assert back.logprobs.dtype == np.float32
