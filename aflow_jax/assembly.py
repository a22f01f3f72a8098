"""From settings to the parts that commands work with: problems, the executor LLM, the policy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax

from aflow_jax.clients import Clients, ClientSet, Say, needs_local_model
from aflow_jax.collector import RolloutCollector
from aflow_jax.config import Config
from aflow_jax.config.sections import RejectionSampling, WarmStart
from aflow_jax.errors import UserError
from aflow_jax.grpo import Learner, LearnerSettings
from aflow_jax.local_executor import BaseModel
from aflow_jax.paths import found
from aflow_jax.problems import Problem, decontaminate, generate_problems, load_problems
from aflow_jax.processes import Processes
from aflow_jax.qwen2 import (
    Adapter,
    Qwen2,
    Qwen2Config,
    ShardingRules,
    Tokenizer,
    create_checkpoint,
    init_adapter,
    load_pretrained,
    load_tokenizer,
    make_mesh,
    place,
    planned_mesh,
    resolve_model,
)
from aflow_jax.references import default_cache, describe, unsound_problems
from aflow_jax.rewards import Grader, Judge
from aflow_jax.sampling import Driver, Engine, SamplingParams
from aflow_jax.sandbox import configure_sandbox
from aflow_jax.workflow import Executor, Limits, WorkflowConstraint, demonstrations, policy_messages


@dataclass(frozen=True)
class ProblemSets:
    """Training problems and held-out ones; no problem is in both."""

    train: list[Problem]
    test: list[Problem]


def load_problem_sets(config: Config, say: Say) -> ProblemSets:
    """Read or generate the problems, and take the held-out ones out of the training set."""
    if config.synthetic_data:
        train = generate_problems(None, config.synthetic_data.train, config.seed, split="train")
        test = generate_problems(None, config.synthetic_data.test, config.seed, split="test")
    else:
        train = load_problems(_existing("train_dataset", config.train_dataset))
        test = load_problems(_existing("test_dataset", config.test_dataset)) if config.test_dataset else []
    train, removed = decontaminate(train, test)
    if not train:
        raise UserError("train_dataset: every problem is in test_dataset too, so none is left to train on")
    if config.evaluation.problems:
        test = test[: config.evaluation.problems]
    say(f"problems: {len(train)} to train on, {len(test)} held out; {removed} removed from training as held out")
    return ProblemSets(train, test)


async def without_unsound(config: Config, problems: ProblemSets, say: Say) -> ProblemSets:
    """Return the problem sets without the code problems whose own answers fail their tests, and say which these are.

    Raises:
        UserError: the sandbox asked for is not here, or nothing is left to train on.
    """
    if config.synthetic_data:
        return problems
    sound = {id(problem) for problem in await sound_problems(config, [*problems.train, *problems.test], say)}
    train, test = ([one for one in part if id(one) in sound] for part in (problems.train, problems.test))
    if not train:
        raise UserError("train_dataset: no problem is left whose own answer passes its tests")
    return ProblemSets(train, test)


async def sound_problems(config: Config, problems: Sequence[Problem], say: Say) -> list[Problem]:
    """Return the problems without those whose own answers fail their tests, and say which these are.

    Raises:
        UserError: the sandbox asked for is not here.
    """
    if not config.check_references or all(problem.test is None for problem in problems):
        return list(problems)
    configure_sandbox(config.sandbox)
    unsound = await unsound_problems(problems, default_cache())
    if unsound:
        say(f"left out, as their own answers fail their tests: {describe(unsound)}")
    bad = {id(one.problem) for one in unsound}
    return [problem for problem in problems if id(problem) not in bad]


def _existing(key: str, path: str) -> Path:
    file = found(path)
    if not file.is_file():
        raise UserError(
            f"{key} {path}: no such file: give a JSONL file of problems, or set synthetic_data to generate some"
        )
    return file


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


def _execution_parts(config: Config, clients: Clients) -> ExecutionParts:
    grader = Grader(Judge(clients.judge), weights=config.reward_weights.model_dump())
    return ExecutionParts(clients, executor_of(config, clients, config.aflow_operators), grader)


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


@dataclass(frozen=True)
class Policy:
    """The model that writes workflows, and how its prompts are made.

    Attributes:
        constraint: what its answers may be; None leaves them free.
        processes: those that sample and train it together.
    """

    config: Config
    model: Qwen2
    tokenizer: Tokenizer
    constraint: WorkflowConstraint | None = None
    processes: Processes = field(default_factory=Processes)

    def prompt_tokens(self, problem: Problem) -> tuple[int, ...]:
        """Return the prompt for a problem."""
        return tuple(self.tokenizer.encode_chat(policy_prompt(self.config, problem)))

    def prompt_text(self, tokens: Sequence[int]) -> str:
        """Return a prompt as the model reads it, the template's markup included."""
        return self.tokenizer.decode(tokens, with_special=True)

    def answer_tokens(self, text: str) -> list[int]:
        """Return an answer's tokens with the end token, as the policy is to write it."""
        return [*self.tokenizer.encode_text(text), self.tokenizer.eos_token_ids[0]]

    def new_adapter(self) -> Adapter:
        """Return a new adapter, which changes nothing yet."""
        config = self.config
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        adapter = init_adapter(
            self.model.config,
            config.lora_rank,
            config.lora_alpha,
            config.lora_target_modules,
            key,
            dropout=config.lora_dropout,
            rslora=config.lora_rslora,
        )
        rules = self.model.rules
        if rules is None:
            return adapter
        return adapter.replace_weights(place(adapter.weights, rules.adapter(adapter.weights)))

    def learner(self, adapter: Adapter, settings: LearnerSettings) -> Learner:
        """Return a learner that starts from an adapter."""
        return Learner(self.model, adapter, settings, agree=self.processes.any if self.processes.count > 1 else None)

    def engine(self) -> Engine:
        """Return a sampling engine for this model."""
        config = self.config
        return Engine(
            self.model,
            self.tokenizer,
            slots=config.sampling_slots,
            prompt_max_length=config.prompt_max_length,
            long_prompts=config.prompt_overflow,
            drafted=config.prompt_lookup,
        )

    def sampling_params(self, temperature: float) -> SamplingParams:
        """Return how answers are sampled at a temperature."""
        generation = self.config.generation_config
        return SamplingParams(
            max_new_tokens=self.config.max_new_tokens,
            temperature=temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            stop_token_ids=self.tokenizer.eos_token_ids,
            constraint=self.constraint,
        )


def sharding_rules(config: Config) -> ShardingRules | None:
    """Return where arrays lie on the devices of all processes; None where there is one device.

    Raises:
        UserError: the mesh of the settings has another number of devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    return None if mesh.size == 1 else ShardingRules(mesh, fsdp=config.mesh.fsdp)


def planned_rules(config: Config, devices: int) -> ShardingRules:
    """Return where arrays would lie on so many devices."""
    return ShardingRules(planned_mesh(config.mesh.data, config.mesh.model, devices), fsdp=config.mesh.fsdp)


def load_policy(config: Config, problems: ProblemSets, say: Say, processes: Processes | None = None) -> Policy:
    """Load the base model and its tokenizer, making a small random one first where settings say so."""
    processes = processes or Processes()
    rules = sharding_rules(config)
    if config.create_model and not Path(config.model_source).exists():
        _create_model(config, problems)
        say(f"model: a small random Qwen2.5-architecture checkpoint is made in {config.model_source}")
    processes.wait()  # for the first one, which makes it
    folder = resolve_model(config.model_source)
    tokenizer = load_tokenizer(folder)
    constraint = (
        _constraint(config, tokenizer, Qwen2Config.from_folder(folder).vocab_size)
        if config.constrained_sampling
        else None
    )
    model = load_pretrained(folder, dtype=config.dtype, quantization=config.quantization, rules=rules)
    shape = model.config
    say(
        f"model: {config.model_source}, {shape.num_hidden_layers} layers of width {shape.hidden_size}, "
        f"{model.dtype} on {jax.devices()[0].device_kind}{_layout(rules, processes)}"
    )
    return Policy(config, model, tokenizer, constraint, processes)


def _layout(rules: ShardingRules | None, processes: Processes) -> str:
    if rules is None:
        return ""
    return (
        f", {rules.mesh.size} devices of {processes.count} processes as data {rules.data} × model {rules.model}"
        f"{', the base cut over both' if rules.fsdp else ''}"
    )


def _constraint(config: Config, tokenizer: Tokenizer, vocabulary_size: int) -> WorkflowConstraint:
    constraint = WorkflowConstraint(
        tokenizer.spellings(),
        vocabulary_size,
        tokenizer.eos_token_ids,
        config.aflow_operators,
        workflow_limits(config),
    )
    constraint.matcher(config.max_new_tokens)  # too few tokens are refused before the weights are loaded
    return constraint


def _remat(config: Config) -> str:
    """Return the name of the policy, a key of `REMAT_POLICIES`, that the setting means."""
    setting = config.gradient_checkpointing
    return {True: "full", False: "none"}[setting] if isinstance(setting, bool) else setting


def learner_settings(config: Config) -> LearnerSettings:
    """Return how GRPO updates the adapter."""
    rollouts = config.rollout_batch_size * config.num_return_sequences_in_group
    return LearnerSettings(
        learning_rate=config.learning_rate,
        max_steps=max(config.max_steps, 1),
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        loss_type=config.loss_type,
        clip_low=config.clip_range,
        clip_high=config.clip_range_high or config.clip_range,
        dual_clip=config.dual_clip,
        importance_sampling=config.importance_sampling,
        importance_cap=config.importance_cap,
        entropy_coef=config.entropy_coef,
        kl_coef=config.kl_loss_coef,
        kl_estimator=config.kl_estimator,
        kl_bias_correction=config.kl_bias_correction,
        max_completion_length=config.max_new_tokens,
        mask_truncated=config.mask_truncated,
        ppo_epochs=config.ppo_epochs,
        microbatch_size=-(-rollouts // config.gradient_accumulation_steps),
        remat=_remat(config),
        seed=config.seed,
    )


def for_this_process(config: Config, processes: Processes, scratch: Path) -> Config:
    """Return the settings with which this process works: the first one alone writes the run folder and W&B.

    What another one would write there goes to a folder of its own, `scratch`; the model that the first one makes it
    reads from the run folder.

    Raises:
        UserError: what the settings ask for works in one process only.
    """
    if processes.count > 1:
        for key, wanted in (("async_generation_ratio", 0), ("rejection_sampling", None)):
            if getattr(config, key) not in (wanted, None):
                raise UserError(f"{key}: works in a run of one process: set {key} to {'null' if wanted is None else 0}")
    if processes.is_first:
        return config
    changes = {"run_dir": str(scratch), "wandb": config.wandb.model_copy(update={"enabled": False})}
    if config.create_model:
        changes |= {"create_model": None, "base_model": config.model_source}
    return config.model_copy(update=changes)


def supervised_settings(config: Config, stage: WarmStart | RejectionSampling, steps: int) -> LearnerSettings:
    """Return how a supervised stage of so many steps before GRPO updates the adapter."""
    return LearnerSettings(
        learning_rate=stage.learning_rate,
        max_steps=steps,
        warmup_steps=min(10, steps // 10),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        microbatch_size=-(-stage.batch_size // config.gradient_accumulation_steps),
        remat=_remat(config),
        seed=config.seed,
    )


def policy_prompt(config: Config, problem: Problem) -> list[dict[str, str]]:
    """Return the chat messages that ask the policy for a workflow."""
    return policy_messages(
        problem,
        config.aflow_operators,
        style=config.prompt_style,
        limits=workflow_limits(config),
        workflow_format=config.workflow_format,
    )


def workflow_limits(config: Config) -> Limits:
    """Return the bounds of a workflow."""
    return Limits(**config.workflow_limits.model_dump())


def _create_model(config: Config, problems: ProblemSets) -> None:
    """Make the model whole or not at all, whenever the process ends."""
    prompts = [message["content"] for problem in problems.train for message in policy_prompt(config, problem)]
    pairs = demonstrations(problems.train, config.aflow_operators, config.seed, config.workflow_format)
    folder = Path(config.model_source)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    create_checkpoint(
        partial, texts=prompts + [answer for _, answer in pairs], seed=config.seed, **config.create_model.model_dump()
    )
    partial.rename(folder)
