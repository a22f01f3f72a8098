"""An endpoint that answers by a script, for tests that need to know every reply."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aflow_jax.llm import Reply
from aflow_jax.problems import Problem
from aflow_jax.workflow import Execution, Executor, parse

MATH = Problem("What is 6 · 7?", "42", "gsm8k", "math")
CODE = Problem(
    "Write double.\n\n    double(2) == 4\n    double(-3) == -6", "", "mbpp", "code", entry_point="double", test="hidden"
)
QA = Problem("Who wrote it?", "Ada", "hotpotqa", "qa", context="It was written by Ada.")

# Programs for CODE.
RIGHT = "def double(x):\n    return 2 * x"
WRONG = "def double(x):\n    return x + 2"


@dataclass
class Asked:
    """One request: who asked (the operator's name), what, and how it was to be sampled."""

    operator: str
    system: str
    user: str
    temperature: float
    seed: int | None


@dataclass
class ScriptedEndpoint:
    """Answers with the texts in order, the last one for ever; or with what a function of the request returns.

    An exception in a text's place is raised.
    """

    script: Sequence[str | Exception] | Callable[[Asked], str | Exception]
    latency: Callable[[Asked], float] = lambda asked: 0.0
    lost: float = 0.0  # seconds before each answer that failed attempts take
    keeps_time: bool = False
    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def complete(self, messages, *, temperature=0.0, seed=None, max_tokens=None) -> Reply:
        system, user = (message["content"] for message in messages)
        operator = re.match(r"You are the (\w+) operator of a workflow\.\n", system)[1]
        request = Asked(operator, system, user, temperature, seed)
        self.asked.append(request)
        if callable(self.script):
            text = self.script(request)
        else:
            text = self.script[min(len(self.asked), len(self.script)) - 1]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            latency = self.latency(request)
            await asyncio.sleep(self.lost + latency)
        finally:
            self.in_flight -= 1
        if isinstance(text, Exception):
            raise text
        return Reply(text, prompt_tokens=len(user), completion_tokens=len(text), usd=0.001, latency=latency)


def execute(workflow: str, endpoint: ScriptedEndpoint, problem: Problem = MATH, **options) -> Execution:
    """Run a workflow, given in the language, on a problem; nothing may be left running."""
    seed = options.pop("seed", (0,))

    async def run() -> Execution:
        execution = await Executor(endpoint, **options).run(parse(workflow), problem, seed=seed)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return execution

    return asyncio.run(run())


def section_of(user: str, tag: str) -> str | None:
    """Return the text of a prompt's section."""
    match = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", user, re.DOTALL)
    return match and match[1]


def solution(text: str) -> str:
    return f"<solution>{text}</solution>"


def code(text: str) -> str:
    return f"<code>\n{text}\n</code>"


def review(verdict: str, feedback: str = "because") -> str:
    return f"<verdict>{verdict}</verdict><feedback>{feedback}</feedback>"
