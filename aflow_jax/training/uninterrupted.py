"""Work in a thread that must not be left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def to_its_end(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread while the event loop goes on; a cancellation waits until it has ended.

    The caller then still gets the result, and is cancelled where it waits next: what it does in between belongs to the
    work.
    """
    task, cancelled = asyncio.ensure_future(asyncio.to_thread(work)), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        asyncio.current_task().cancel()
    return task.result()
