"""What an operator may use while it runs: the LLM, the sandbox, and chance that is the same at every run."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aflow_jax.llm import Reply, TooLong
from aflow_jax.sandbox import (
    ProgramResult,
    SandboxUnavailable,
    TestResult,
    run_program_async,
    run_tests_async,
)
from aflow_jax.workflow.concurrency import Deadline
from aflow_jax.workflow.faults import OperatorFault
from aflow_jax.workflow.fields import FieldError, is_neutralised, required_fields, restore
from aflow_jax.workflow.outcome import Outcome

SAMPLING_TEMPERATURE = 0.7
_SANDBOX_RETRY_DELAYS = (0.5, 2.0)

Answer = TypeVar("Answer")
Fields = dict[str, str]


class Client(Protocol):
    """The part of an LLM client that operators need.

    A client with a true attribute `keeps_time` ends every call by itself, and says in the reply's `latency` which of
    the call's seconds are the workflow's. Else all are.
    """

    async def complete(
        self,
        messages: list[dict[str, str]],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """Return the model's reply; raise LLMFault when it cannot be had."""
        ...


@dataclass(frozen=True)
class Resources:
    """What all rollouts share.

    Attributes:
        client: the executor LLM.
        calls: slots for LLM calls in flight.
        sandboxes: slots for sandboxes in flight.
        program_timeout: seconds that a program may run.
        test_timeout: seconds that the public tests of one version may take.
    """

    client: Client
    calls: asyncio.Semaphore
    sandboxes: asyncio.Semaphore
    program_timeout: float
    test_timeout: float


@dataclass
class Session:
    """One operator's run, at one place of one workflow.

    Attributes:
        resources: what all rollouts share.
        deadline: the workflow's time limit, which stands still while waiting for a slot or the infrastructure.
        seed: the rollout's seed followed by the operator's place in the workflow.
        sampled: whether to sample at all: branches that repeat differ, single calls are greedy.
        replies: what the LLM answered so far.
    """

    resources: Resources
    deadline: Deadline
    seed: tuple[int, ...]
    sampled: bool
    replies: list[Reply] = field(default_factory=list)

    async def ask(
        self,
        messages: Sequence[dict[str, str]],
        fields: Sequence[str],
        *,
        check: Callable[[Fields], Answer] = dict,
        may_be_empty: Sequence[str] = (),
        vote: int | None = None,
    ) -> Answer:
        """Ask the LLM and return `check` of the fields of its reply; one without them or cut is asked for once more.

        Args:
            messages: a system and a user message.
            fields: the tagged fields that the reply must hold.
            check: makes the answer of the fields, or raises FieldError.
            may_be_empty: fields that may be empty or missing.
            vote: the vote's number; votes are always sampled, each with its own seed.

        Raises:
            OperatorFault: OPERATOR_FORMAT, when the second reply cannot be used either, or the prompt is too long for
                the model: what the workflow makes of a problem is its own doing, and the endpoint served it.
        """
        system, user = messages
        turn = len(self.replies) if vote is None else vote
        notice = ""
        for attempt in range(2):
            prompt = [dict(system), {"role": user["role"], "content": user["content"] + notice}]
            try:
                reply = await self._complete(prompt, sampled=self.sampled or vote is not None, place=(turn, attempt))
                found = required_fields(reply.text, fields, may_be_empty=may_be_empty)
                if is_neutralised(user["content"]):
                    found = {name: restore(text) for name, text in found.items()}
                return check(found)
            except FieldError as error:
                reason = str(error)
            except TooLong as fault:
                if fault.reply is None:
                    raise OperatorFault(Outcome.OPERATOR_FORMAT, str(fault)) from None
                reason = f"it was too long and was cut after {fault.reply.completion_tokens} tokens"
            notice = f"\n\nYour last reply could not be used: {reason}. Reply again, in exactly the form asked for."
        raise OperatorFault(Outcome.OPERATOR_FORMAT, reason)

    async def run_program(self, source: str) -> ProgramResult:
        """Run a program in the sandbox."""
        return await self._in_sandbox(lambda: run_program_async(source, timeout=self.resources.program_timeout))

    async def run_tests(self, code: str, entry_point: str, test: str) -> TestResult:
        """Run tests of a program in the sandbox."""
        return await self._in_sandbox(
            lambda: run_tests_async(code, entry_point, test, timeout=self.resources.test_timeout)
        )

    def random(self, *place: int) -> random.Random:
        """Return a source of chance that depends on nothing but the seed and the place."""
        return random.Random(derive_seed((*self.seed, *place)))

    async def _complete(self, prompt: list[dict[str, str]], *, sampled: bool, place: tuple[int, ...]) -> Reply:
        # Greedy calls carry no seed, so that equal requests are equal for a response cache.
        chance: dict[str, Any] = {"temperature": 0.0, "seed": None}
        if sampled:
            chance = {"temperature": SAMPLING_TEMPERATURE, "seed": derive_seed((*self.seed, *place))}
        client, reply = self.resources.client, None
        keeps_time = getattr(client, "keeps_time", False)
        async with self.deadline.slot(self.resources.calls):
            with self.deadline.stopped() if keeps_time else nullcontext():
                try:
                    reply = await client.complete(prompt, **chance)
                except TooLong as fault:
                    reply = fault.reply
                    raise
                finally:
                    if reply is not None:
                        self.replies.append(reply)
                        self.deadline.charge(reply.latency if keeps_time else 0.0)
        await asyncio.sleep(0)  # where a limit that the call has passed ends the workflow
        return reply

    async def _in_sandbox(self, start: Callable[[], Awaitable[Answer]]) -> Answer:
        for delay in _SANDBOX_RETRY_DELAYS:
            async with self.deadline.slot(self.resources.sandboxes):
                try:
                    return await start()
                except SandboxUnavailable:
                    pass
            with self.deadline.stopped():
                await asyncio.sleep(delay)
        async with self.deadline.slot(self.resources.sandboxes):
            return await start()


def derive_seed(place: tuple[int, ...]) -> int:
    """Return a seed in [0, 2^31) that differs for different places, the same in every process."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
