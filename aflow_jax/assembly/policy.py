"""The policy: the model that writes workflows, how it is prompted and sampled, and where it lies."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from aflow_jax.assembly.problems import ProblemSets
from aflow_jax.assembly.settings import workflow_limits
from aflow_jax.clients import Say
from aflow_jax.config import Config
from aflow_jax.grpo import Learner, LearnerSettings
from aflow_jax.problems import Problem
from aflow_jax.processes import Processes
from aflow_jax.qwen2 import (
    Adapter,
    Qwen2,
    Qwen2Config,
    ShardingRules,
    Tokenizer,
    create_checkpoint,
    load_pretrained,
    load_tokenizer,
    make_mesh,
    place,
    planned_mesh,
    resolve_model,
)
from aflow_jax.sampling import Engine, SamplingParams
from aflow_jax.trained import adapter_of_settings
from aflow_jax.workflow import WorkflowConstraint, demonstrations, policy_messages


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
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        adapter = adapter_of_settings(self.config, self.model.config, key)
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
            prompt_readers=config.num_return_sequences_in_group,
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


def policy_prompt(config: Config, problem: Problem) -> list[dict[str, str]]:
    """Return the chat messages that ask the policy for a workflow."""
    return policy_messages(
        problem,
        config.aflow_operators,
        style=config.prompt_style,
        limits=workflow_limits(config),
        workflow_format=config.workflow_format,
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
