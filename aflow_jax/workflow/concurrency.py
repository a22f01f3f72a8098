"""Running things side by side with nothing left behind, and a clock that does not count queueing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from aflow_jax.workflow.faults import OperatorFault

Result = TypeVar("Result")


async def side_by_side(coroutines: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all and return their results in order, whatever the order they end in.

    An OperatorFault lets the others end and then is raised, the first in order: so neither the outcome nor what was
    spent depends on timing. Any other error cancels the others at once and is raised itself.
    """

    async def settled(coroutine: Coroutine[Any, Any, Result]) -> Result | OperatorFault:
        try:
            return await coroutine
        except OperatorFault as fault:
            return fault

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(settled(coroutine)) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    results = [task.result() for task in tasks]
    for result in results:
        if isinstance(result, OperatorFault):
            raise result
    return results


class Deadline:
    """A time limit that stands still while any of the work under it waits: for a free slot, or for the infrastructure.

    Waiting says how busy or broken the executor is, not how slow the workflow is, and WORKFLOW_TIMEOUT blames the
    workflow.
    """

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._waiting = 0
        self._remaining = 0.0
        self._charged_until = 0.0

    async def __aenter__(self) -> Deadline:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._timeout.__aexit__(*error)

    def expired(self) -> bool:
        """Whether the limit has ended the work."""
        return self._timeout.expired()

    @asynccontextmanager
    async def slot(self, slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """Hold one of the slots; the time it takes to get it is not counted."""
        with self.stopped():
            await slots.acquire()
        try:
            yield
        finally:
            slots.release()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time inside."""
        self._pause()
        try:
            yield
        finally:
            self._proceed()

    def charge(self, seconds: float) -> None:
        """Count the last `seconds` inside `stopped` after all; moments that a sibling was charged for count once."""
        now = asyncio.get_running_loop().time()
        start = max(now - seconds, self._charged_until)
        self._charged_until = now
        self._remaining -= max(0.0, now - start)

    def _pause(self) -> None:
        deadline = self._timeout.when()
        if self._waiting == 0 and deadline is not None and not self.expired():
            self._remaining = deadline - asyncio.get_running_loop().time()
            self._timeout.reschedule(None)
        self._waiting += 1

    def _proceed(self) -> None:
        self._waiting -= 1
        if self._waiting == 0 and not self.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._remaining)
