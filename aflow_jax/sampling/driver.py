"""One thread that owns the scheduler and the device, and any number of callers that ask it for completions.

    event loops ──submit, close──► inbox ──► device thread: scheduler.step() over and over
         ▲                                          │
         └──── progress of each stream ◄────────────┘

Requests of all callers decode side by side, in the order in which they came: nobody waits for another to finish all
its work, and none needs to know of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import Adapter
from aflow_jax.sampling.engine import Engine
from aflow_jax.sampling.types import Completion, Progress, Request, SamplingParams


class QueueFull(Exception):
    """So many completions wait that another would wait too long: come back later."""


class ShuttingDown(Exception):
    """Nothing new is begun."""


class DeviceFailure(Exception):
    """The device thread has ended by the error that is this one's cause; the driver is of no further use."""


class Stream:
    """The progress of some requests, to be iterated once, on the event loop that submitted them.

    Iterating ends when every completion has. Closing before that cancels what goes on, and frees its slots.
    """

    def __init__(self, driver: Driver, requests: Sequence[Request], submit: Callable[[Request], int]) -> None:
        self.requests = requests
        self.submit = submit  # to the scheduler; called by the device thread
        self.loop = asyncio.get_running_loop()
        self.unfinished = sum(len(request.seeds) for request in requests)
        self.ids: dict[int, int] = {}  # the scheduler's id of a request → its place
        self._driver = driver
        self._news: asyncio.Queue[Progress | Exception] = asyncio.Queue()
        self._left = self.unfinished

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self

    async def __anext__(self) -> Progress:
        """Return what comes next.

        Raises:
            UserError: the scheduler refuses a request.
            DeviceFailure: the device thread has ended by an error.
        """
        if not self._left:
            raise StopAsyncIteration
        news = await self._news.get()
        if isinstance(news, Exception):
            self._left = 0
            raise news
        self._left -= news.completion is not None
        return news

    async def completions(self) -> AsyncIterator[Completion]:
        """Iterate over the completions alone, each when it ends."""
        async for progress in self:
            if progress.completion is not None:
                yield progress.completion

    def close(self) -> None:
        """Cancel what goes on; nothing happens where all has ended."""
        self._left = 0
        self._driver.cancel(self)

    def tell(self, news: Sequence[Progress | Exception]) -> None:
        """Hand on news; called on the stream's event loop."""
        for one in news:
            self._news.put_nowait(one)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Driver:
    """Runs an engine in a thread of its own; a context manager that starts and ends it. Safe to use from any thread.

    Attributes:
        failure: the error that ended the device thread, or None.
        slots: completions of one adapter that decode together.
    """

    def __init__(self, engine: Engine, *, max_waiting: int | None = None) -> None:
        """Make a driver; nothing runs before `start`.

        Args:
            engine: what samples.
            max_waiting: completions that may wait for a slot before further ones are refused; None is unbounded.
        """
        self.failure: BaseException | None = None
        self.slots = engine.options.slots
        self._scheduler = engine.scheduler()
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._inbox: deque[tuple[Callable[[Stream], None], Stream]] = deque()
        self._live: set[Stream] = set()  # those with completions that have not ended
        self._by_id: dict[int, Stream] = {}  # by the scheduler's ids of their requests
        self._unfinished = 0
        self._draining = self._ending = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    @property
    def unfinished(self) -> int:
        """Completions that were asked for and have neither ended nor been cancelled."""
        return self._unfinished

    @property
    def waiting(self) -> int:
        """Those of them that are more than there are slots."""
        return max(0, self._unfinished - self.slots)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def submit(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        adapter: Adapter | None = None,
        *,
        prompt_max_length: int | None = None,
    ) -> Stream:
        """Ask for completions; close the stream, or iterate it to its end.

        Args:
            requests: started in this order, after all that was asked for before.
            params: how tokens are drawn, for all of them.
            adapter: None samples from the base model.
            prompt_max_length: longest prompt, where these requests have a bound of their own.

        Raises:
            QueueFull: `max_waiting` completions wait already.
            ShuttingDown: the driver drains or is closed.
            DeviceFailure: the device thread has ended by an error.
        """
        submit = partial(self._scheduler.submit, params=params, adapter=adapter, prompt_max_length=prompt_max_length)
        stream = Stream(self, requests, submit)
        with self._changed:
            if self.failure is not None:
                raise _device_failure(self.failure)
            if self._draining or self._ending:
                raise ShuttingDown("no new requests are taken: this process is about to end")
            if self._max_waiting is not None and self.waiting >= self._max_waiting:
                raise QueueFull(f"{self.waiting} completions wait already")
            if stream.unfinished:
                self._unfinished += stream.unfinished
                self._live.add(stream)
                self._post(self._admit, stream)
        return stream

    def cancel(self, stream: Stream) -> None:
        """Cancel what goes on of a stream."""
        with self._changed:
            if stream in self._live:
                self._post(self._drop, stream)

    async def drain(self) -> None:
        """Refuse new requests, and return when those that were taken have ended."""
        with self._changed:
            self._draining = True
        while self._unfinished and self.failure is None:
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """End the thread; what goes on is cancelled, and whoever waits for it gets an error."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, action: Callable[[Stream], None], stream: Stream) -> None:
        self._inbox.append((action, stream))
        self._changed.notify()

    def _run(self) -> None:
        """Drive the device until the end, or until an error, which everyone who waits is told."""
        try:
            while self._take_inbox():
                if not self._scheduler.idle:
                    self._hand_on(self._scheduler.step())
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must not wait on
            self.failure = error
        with self._changed:
            self._ending = True
            left = tuple(self._live)
        self._by_id.clear()
        for stream in left:
            self._ended(stream, stream.unfinished)
        told = ShuttingDown("the sampling thread was ended") if self.failure is None else _device_failure(self.failure)
        self._tell({stream: [told] for stream in left})

    def _take_inbox(self) -> bool:
        """Do what was asked for, waiting for it where there is nothing else to do; return whether to go on."""
        with self._changed:
            while not (self._inbox or self._ending) and self._scheduler.idle:
                self._changed.wait()
            taken, self._inbox = self._inbox, deque()
        for action, stream in taken:
            action(stream)
        return not self._ending

    def _admit(self, stream: Stream) -> None:
        try:
            for place, request in enumerate(stream.requests):
                request_id = stream.submit(request)
                stream.ids[request_id] = place
                self._by_id[request_id] = stream
        except UserError as refusal:
            self._drop(stream)
            self._tell({stream: [refusal]})

    def _drop(self, stream: Stream) -> None:
        for request_id in stream.ids:
            if self._by_id.pop(request_id, None) is not None:
                self._scheduler.cancel(request_id)
        self._ended(stream, stream.unfinished)

    def _hand_on(self, steps: Sequence[Progress]) -> None:
        """Give each stream its own, with the request's place in place of the scheduler's id."""
        news: defaultdict[Stream, list[Progress]] = defaultdict(list)
        for progress in steps:
            stream = self._by_id[progress.request]
            place, completion = stream.ids[progress.request], progress.completion
            if completion is not None:
                completion = dataclasses.replace(completion, request=place)
            news[stream].append(dataclasses.replace(progress, request=place, completion=completion))
        for stream, own in news.items():
            self._ended(stream, sum(progress.completion is not None for progress in own))
        self._tell(news)

    def _ended(self, stream: Stream, count: int) -> None:
        """Count completions of a stream that ended; after the last one nothing is kept of it."""
        with self._changed:
            self._unfinished -= count
            stream.unfinished -= count
            if not stream.unfinished:
                self._live.discard(stream)
                for request_id in stream.ids:
                    self._by_id.pop(request_id, None)

    def _tell(self, news: Mapping[Stream, Sequence[Progress | Exception]]) -> None:
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[Stream]] = defaultdict(list)
        for stream in news:
            by_loop[stream.loop].append(stream)
        for loop, streams in by_loop.items():
            told = [(stream, news[stream]) for stream in streams]
            try:
                # One call for all of them: each wakes the loop's thread.
                loop.call_soon_threadsafe(_tell_all, told)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                for stream in streams:
                    self._drop(stream)


def _tell_all(told: Sequence[tuple[Stream, Sequence[Progress | Exception]]]) -> None:
    for stream, news in told:
        stream.tell(news)


def _device_failure(cause: BaseException) -> DeviceFailure:
    failure = DeviceFailure(f"the sampling thread has failed: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure
