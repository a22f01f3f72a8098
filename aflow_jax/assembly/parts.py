"""What runs and grades workflows, and what samples the policy, opened together and closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aflow_jax.assembly.policy import Policy, load_policy
from aflow_jax.assembly.problems import ProblemSets
from aflow_jax.assembly.settings import workflow_limits
from aflow_jax.clients import Clients, ClientSet, Say, needs_local_model
from aflow_jax.collector import RolloutCollector
from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.local_executor import BaseModel
from aflow_jax.problems import Problem
from aflow_jax.processes import Processes
from aflow_jax.rewards import Grader, Judge
from aflow_jax.sampling import Driver
from aflow_jax.sandbox import configure_sandbox
from aflow_jax.workflow import Executor


@dataclass(frozen=True)
class ExecutionParts:
    """The executor LLM and what works with it: all that running and grading a workflow takes."""

    clients: Clients
    executor: Executor
    grader: Grader


@dataclass(frozen=True)
class RunParts(ExecutionParts):
    """Besides, the policy that writes workflows, and what samples it."""

    policy: Policy
    driver: Driver


@asynccontextmanager
async def open_parts(
    config: Config, problems: ProblemSets, say: Say, processes: Processes | None = None
) -> AsyncIterator[RunParts]:
    """Connect to the executor LLM, starting the simulator first where settings say so, and load the policy.

    An endpoint elsewhere is asked once before the model loads, so that a refused key costs nothing.

    Raises:
        UserError: an endpoint is missing, refuses the key or cannot be reached, the sandbox asked for is not here, or
            the model cannot be loaded.
    """
    say(f"sandbox: {configure_sandbox(config.sandbox)}")
    async with AsyncExitStack() as stack:
        client_set = ClientSet(config, say, stack)
        await client_set.connect([*problems.train, *problems.test])
        policy = load_policy(config, problems, say, processes)
        driver = stack.enter_context(Driver(policy.engine()))
        clients = client_set.complete(BaseModel(driver, policy.model, policy.tokenizer))
        if config.async_generation_ratio and "local" in (
            clients.executor.endpoint.api_type,
            clients.judge.endpoint.api_type,
        ):
            raise UserError(
                "async_generation_ratio: the executor or the judge is this run's own model, which cannot answer while "
                "it samples: set async_generation_ratio to 0"
            )
        yield RunParts(**vars(_execution_parts(config, clients)), policy=policy, driver=driver)


@asynccontextmanager
async def open_execution(config: Config, problems: Sequence[Problem], say: Say) -> AsyncIterator[ExecutionParts]:
    """Do as `open_parts` without a policy; the base model is loaded only where it is the executor or the judge.

    Args:
        config: the settings.
        problems: what the simulator is to know, where settings ask for one.
        say: where lines for the user go.

    Raises:
        UserError: as `open_parts`.
    """
    if needs_local_model(config):
        async with open_parts(config, ProblemSets(list(problems), []), say) as parts:
            yield parts
        return
    say(f"sandbox: {configure_sandbox(config.sandbox)}")
    async with AsyncExitStack() as stack:
        client_set = ClientSet(config, say, stack)
        await client_set.connect(list(problems))
        yield _execution_parts(config, client_set.complete(None))


def executor_of(config: Config, clients: Clients, operators: Sequence[str] | None) -> Executor:
    """Return what runs workflows of these operators; of all where None."""
    return Executor(
        clients.executor,
        operators=operators,
        timeout=config.execution_timeout,
        max_calls_in_flight=config.max_concurrent_calls,
        max_sandboxes_in_flight=config.max_concurrent_sandboxes,
    )


def collector_of(config: Config, parts: RunParts) -> RolloutCollector:
    """Return what makes rollouts of a run's parts."""
    return RolloutCollector(
        driver=parts.driver,
        clients=parts.clients,
        executor=parts.executor,
        grader=parts.grader,
        operators=tuple(config.aflow_operators),
        limits=workflow_limits(config),
        workflow_format=config.workflow_format,
        prompt_tokens=parts.policy.prompt_tokens,
        processes=parts.policy.processes,
    )


def _execution_parts(config: Config, clients: Clients) -> ExecutionParts:
    grader = Grader(Judge(clients.judge), weights=config.reward_weights.model_dump())
    return ExecutionParts(clients, executor_of(config, clients, config.aflow_operators), grader)
