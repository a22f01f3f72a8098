"""Every setting, typed and checked before anything is loaded.

A YAML file, then `key=value` overrides (dots reach into sections). Unknown keys and values out of range raise
UserError with one line that names the file, the key and the mend. Settings never hold secrets: API keys come from
the environment.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aflow_jax.errors import UserError

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Domain = Literal["math", "code", "qa"]


class Section(BaseModel):
    """A group of settings: unknown keys are errors, values are not converted, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _fraction(default: float, description: str) -> Any:
    return Field(default, ge=0.0, le=1.0, description=description)


class WorkflowAware(Section):
    """Tie-breaking in groups whose rewards are all equal (WA-GRPO)."""

    alpha: float = _fraction(0.12, "largest advantage that a tie-break gives; 0 is plain GRPO")
    diversity_weight: float = _fraction(0.35, "weight of the mean distance to the group's other workflows")
    revise_gain_weight: float = _fraction(0.25, "weight of what the Revise operators gained in correctness")
    exec_success_weight: float = _fraction(0.20, "weight of how well the execution ended")
    efficiency_weight: float = _fraction(0.10, "weight of the tokens spent, ranked inside the group")
    op_variety_weight: float = _fraction(0.10, "weight of the distinct operators used")


class TemperatureSchedule(Section):
    """The sampling temperature over the steps: linear from `initial` to `final` over `warmup_steps`, then constant."""

    enabled: bool = Field(True, description="false keeps `initial` throughout")
    initial: float = Field(0.5, gt=0.0, le=5.0, description="temperature at the first step")
    final: float = Field(0.15, gt=0.0, le=5.0, description="temperature after `warmup_steps`")
    warmup_steps: int = Field(150, ge=1, description="steps from `initial` to `final`")

    def at(self, step: int) -> float:
        """Return the temperature of 0-based `step`."""
        if not self.enabled:
            return self.initial
        share = min(step / self.warmup_steps, 1.0)
        return self.initial + (self.final - self.initial) * share


class GenerationConfig(Section):
    """How the policy's answers are sampled."""

    top_p: float = Field(
        0.95, gt=0.0, le=1.0, description="nucleus: smallest set of tokens with this probability; 1 is off"
    )
    top_k: int = Field(50, ge=0, description="most probable tokens kept; 0 is off")
    max_new_tokens: int = Field(
        4096, ge=1, description="tokens of an answer at most (response_max_length bounds it too)"
    )


class RewardWeights(Section):
    """Weights of the reward's components, each component in [0, 1]."""

    correctness: float = _fraction(0.65, "the graded answer")
    efficiency: float = _fraction(0.15, "few calls and low cost, as far as the answer is correct")
    simplicity: float = _fraction(0.10, "few operators, as far as the answer is correct")
    format: float = _fraction(0.05, "how far the workflow's text parsed")
    repetition: float = _fraction(0.05, "no repeated text")


class WandbSettings(Section):
    """Weights & Biases; without WANDB_API_KEY in the environment the run is recorded offline."""

    enabled: bool = Field(False, description="whether metrics also go to W&B")
    project: str = Field("agent-prompt", min_length=1, description="W&B project")


class WorkflowLimits(Section):
    """What a workflow may be at most; each excess is a LIMIT fault."""

    characters: int = Field(2000, ge=1, description="length of the expression")
    nesting: int = Field(4, ge=1, description="depth of groups, parallels, loops and branches")
    branches: int = Field(8, ge=2, description="branches of one parallel")
    calls: int = Field(24, ge=1, description="operator calls in the worst case, loops unrolled")
    instruction: int = Field(400, ge=1, description="characters of one instruction")


class Budget(Section):
    """What the executor and judge may spend in this run; reaching a bound stops it with a checkpoint."""

    calls: int | None = Field(None, ge=1, description="LLM calls")
    tokens: int | None = Field(None, ge=1, description="prompt and completion tokens together")
    usd: float | None = Field(None, gt=0.0, description="US dollars, for endpoints whose price is known")


class WarmStart(Section):
    """Supervised learning on workflow demonstrations before GRPO."""

    demonstrations: str | None = Field(
        None,
        description="JSONL of problems with a `workflow` field; null draws standard workflows at random",
    )
    steps: int = Field(100, ge=1, description="optimizer steps")
    batch_size: int = Field(16, ge=1, description="demonstrations a step")
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0, description="peak learning rate")


class Evaluation(Section):
    """How held-out problems are evaluated inside training."""

    problems: int | None = Field(None, ge=1, description="problems taken from test_dataset; null takes all")
    samples: int = Field(1, ge=1, description="workflows sampled for each problem")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="sampling temperature; 0 is greedy")


class CreateModel(Section):
    """Make a small random Qwen2.5-architecture checkpoint in the run folder, and train that instead of `base_model`."""

    hidden_size: int = Field(128, ge=8, description="width of the residual stream")
    intermediate_size: int = Field(512, ge=8, description="width of the MLP")
    num_hidden_layers: int = Field(4, ge=1, description="decoder layers")
    num_attention_heads: int = Field(4, ge=1, description="query heads")
    num_key_value_heads: int = Field(2, ge=1, description="key and value heads")
    vocab_size: int = Field(2048, ge=300, description="tokens of the tokenizer trained on the project's own text")


class SyntheticData(Section):
    """Generate the problems instead of reading train_dataset and test_dataset."""

    train: int = Field(512, ge=1, description="training problems")
    test: int = Field(96, ge=1, description="held-out problems")


class SimulatorSettings(Section):
    """Run the executor LLM's simulator on loopback instead of a real endpoint. It knows the gold answers."""

    skills: dict[str, dict[str, float]] | None = Field(
        None, description="chance of a right reply by domain and operator; null takes the built-in table"
    )
    latency_median: float = Field(0.0, ge=0.0, description="median seconds of a reply (lognormal); 0 answers at once")
    latency_p95: float = Field(0.0, ge=0.0, description="95th percentile of a reply's seconds")
    faults: dict[str, float] = Field(default_factory=dict, description="rate of each injected fault by name")


class VoidLimit(Section):
    """When infrastructure faults pause training."""

    ratio: float = _fraction(0.05, "share of void rollouts in the window above which training pauses")
    window: int = Field(20, ge=1, description="steps looked back over")


class Config(Section):
    """All settings of a run."""

    exp_name: str = Field("aflow_jax", pattern=r"^[A-Za-z0-9._-]+$", description="name of the experiment")
    seed: int = Field(42, ge=0, le=2**31 - 1, description="everything random follows from it")
    run_dir: str | None = Field(None, description="folder of the run; null is runs/<exp_name>")

    base_model: str = Field("Qwen/Qwen2.5-7B-Instruct", min_length=1, description="Hugging Face name or local folder")
    create_model: CreateModel | None = Field(None, description="make a small random model to train instead")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of the frozen base; auto follows the device"
    )
    quantization: Literal["int8", "nf4"] | None = Field(None, description="weight-only quantisation of the frozen base")

    num_return_sequences_in_group: int = Field(2, ge=1, le=1024, description="K: workflows sampled for each problem")
    rollout_batch_size: int = Field(5, ge=1, le=65536, description="B: problems a step")
    max_steps: int = Field(500, ge=0, description="GRPO steps")
    ppo_epochs: int = Field(1, ge=1, le=64, description="passes over each batch of rollouts")
    gradient_accumulation_steps: int = Field(
        4, ge=1, description="microbatches that a batch is split into; the gradient is the same"
    )
    gradient_checkpointing: Literal[True, False, "full", "attention", "dots", "none"] = Field(
        True,
        description="what backward passes compute again: all (true), all but attention, no products, nothing (false)",
    )

    learning_rate: float = Field(2.0e-5, gt=0.0, le=1.0, description="peak learning rate")
    warmup_steps: int = Field(100, ge=0, description="optimizer steps of linear warmup before the cosine")
    weight_decay: float = Field(0.01, ge=0.0, le=1.0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0.0, description="global norm that gradients are clipped to")

    loss_type: Literal["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"] = Field(
        "grpo", description="how the objective is formed and averaged"
    )
    kl_loss_coef: float = Field(
        0.005, ge=0.0, description="beta: weight of the KL term against the base model; 0 leaves it out"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="estimator of the KL term; as a loss k1 pulls nowhere, k2 and k3 do"
    )
    kl_bias_correction: bool = Field(False, description="weigh the KL term by the ratio, as TRL does by default")
    entropy_coef: float = Field(0.0, ge=0.0, description="weight of the entropy bonus")
    clip_range: float = Field(
        0.20, gt=0.0, le=1.0, description="epsilon of the clipped ratio; 1 with clip_range_high: no lower clip"
    )
    clip_range_high: float | None = Field(None, gt=0.0, description="upper epsilon where it differs from clip_range")
    dual_clip: float | None = Field(
        None, gt=1.0, description="bound of the ratio where the advantage is negative; null is none"
    )
    importance_sampling: Literal["token", "sequence", "none"] = Field(
        "token", description="whose ratio to the sampler is truncated in epochs after the first"
    )
    importance_cap: float = Field(2.0, ge=1.0, description="what that ratio is truncated to")
    mask_truncated: bool = Field(False, description="leave completions cut by the length limit out of the loss")
    advantage_scale: Literal["group", "batch", "none"] = Field(
        "group", description="what the advantages are divided by the deviation of"
    )
    advantage_clip: float = Field(5.0, gt=0.0, description="bound of the advantage's size")

    lora_rank: int = Field(64, ge=1, le=4096, description="rank of the adapter")
    lora_alpha: float = Field(64, gt=0.0, description="the adapter's output is scaled by alpha / rank")
    lora_rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead: rank-stabilised LoRA")
    lora_dropout: float = Field(
        0.05, ge=0.0, lt=1.0, description="dropout of the adapter's input in training; never in sampling"
    )
    lora_target_modules: str = Field(
        "q_proj,k_proj,v_proj,o_proj", description="adapted projections, separated by commas"
    )

    prompt_max_length: int = Field(3072, ge=8, description="tokens of a prompt at most")
    prompt_overflow: Literal["error", "truncate"] = Field(
        "error", description="what happens to a longer prompt; truncated ones are counted"
    )
    prompt_style: Literal["full", "short"] = Field(
        "full", description="the text that teaches the workflow language; short is for tiny models"
    )
    response_max_length: int = Field(5120, ge=1, description="tokens of an answer at most")
    generation_config: GenerationConfig = Field(default_factory=GenerationConfig, description="sampling")
    temperature_schedule: TemperatureSchedule = Field(
        default_factory=TemperatureSchedule, description="sampling temperature"
    )
    sampling_slots: int = Field(64, ge=1, description="sequences decoded together")
    prompt_lookup: int = Field(
        0, ge=0, le=15, description="tokens that prompt lookup drafts for each pass; the same answers, 0 is off"
    )
    constrained_sampling: bool = Field(
        False, description="draw only tokens after which the answer can still be a workflow within workflow_limits"
    )

    wa_grpo: WorkflowAware = Field(default_factory=WorkflowAware, description="workflow-aware advantages")
    reward_weights: RewardWeights = Field(default_factory=RewardWeights, description="the reward")
    domain_ratios: dict[Domain, float] = Field(
        default_factory=lambda: {"math": 0.333, "code": 0.333, "qa": 0.334},
        description="share of each domain in a batch",
    )
    train_dataset: str | None = Field(
        "data/ready_to_train/train_10k_final.jsonl", description="JSONL of training problems"
    )
    test_dataset: str | None = Field(
        "data/ready_to_train/test_500_preprocessed.jsonl", description="JSONL of held-out problems"
    )
    synthetic_data: SyntheticData | None = Field(None, description="generate the problems instead")

    aflow_config_path: str = Field("configs/aflow_llm.yaml", description="endpoints of the executor LLMs")
    aflow_executor_model: str = Field("gpt-4o-mini", description="the executor: a name in aflow_config_path")
    judge_model: str | None = Field(None, description="the judge: a name in aflow_config_path; null is the executor's")
    aflow_operators: list[str] = Field(
        default_factory=lambda: ["Custom", "AnswerGenerate", "Programmer", "Test", "Review", "Revise", "ScEnsemble"],
        min_length=1,
        description="operators offered to the policy",
    )
    workflow_limits: WorkflowLimits = Field(default_factory=WorkflowLimits, description="bounds of a workflow")
    execution_timeout: float = Field(600, gt=0.0, description="seconds for one workflow")
    call_timeout: float = Field(120, gt=0.0, description="seconds for one LLM call, retries aside")
    max_concurrent_calls: int = Field(64, ge=1, description="LLM calls in flight")
    sandbox: Literal["auto", "namespaces", "bubblewrap", "landlock", "unsafe"] = Field(
        "auto", description="isolation of model-written programs; auto takes the strongest that the machine offers"
    )
    max_concurrent_sandboxes: int = Field(4, ge=1, description="sandboxed programs at once")
    budget: Budget = Field(default_factory=Budget, description="spending bounds")
    void_limit: VoidLimit = Field(default_factory=VoidLimit, description="infrastructure faults tolerated")
    simulator: SimulatorSettings | None = Field(None, description="simulate the executor LLM")

    warm_start: WarmStart | None = Field(None, description="supervised learning before GRPO")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="evaluation inside training")
    eval_every: int = Field(100, ge=0, description="steps between evaluations; 0 is never")
    save_every: int = Field(50, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept")
    log_every: int = Field(5, ge=1, description="steps between lines of training.log")
    wandb: WandbSettings = Field(default_factory=WandbSettings, description="Weights & Biases")

    @field_validator("lora_target_modules")
    @classmethod
    def _known_targets(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        unknown = [name for name in names if name not in LORA_TARGETS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(LORA_TARGETS)}")
        return ",".join(names)

    @field_validator("domain_ratios")
    @classmethod
    def _ratios_add_up(cls, value: dict[str, float]) -> dict[str, float]:
        if any(ratio < 0 for ratio in value.values()) or abs(sum(value.values()) - 1.0) > 1e-3:
            raise ValueError("the ratios must be 0 or more and add up to 1")
        return value

    @model_validator(mode="after")
    def _has_problems(self) -> Config:
        if self.synthetic_data is None and self.train_dataset is None:
            raise ValueError("set train_dataset to a JSONL file, or synthetic_data to generate problems")
        return self

    @model_validator(mode="after")
    def _dual_clip_means_something(self) -> Config:
        if self.dual_clip is None:
            return self
        if self.loss_type == "cispo":
            raise ValueError("'dual_clip' has no meaning under loss_type cispo: leave it null")
        upper = 1 + (self.clip_range_high or self.clip_range)
        if self.dual_clip <= upper:
            raise ValueError(f"'dual_clip' is {self.dual_clip}: must be > {upper:g}, the upper clip of the ratio")
        return self

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.run_dir or f"runs/{self.exp_name}")

    @property
    def model_source(self) -> str:
        """The base model's Hugging Face name or folder."""
        return str(self.run_folder / "model") if self.create_model else self.base_model

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an answer at most."""
        return min(self.generation_config.max_new_tokens, self.response_max_length)

    def to_yaml(self) -> str:
        """Return the resolved settings as YAML that `load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read the settings of `path`, apply `key=value` overrides, check everything.

    Raises:
        UserError: a missing or malformed file, an unknown key, a value of the wrong type or out of range.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(_one_line(error, str(path))) from None


class _Loader(yaml.SafeLoader):
    """YAML with `1e-4` read as a number, as people write it, and repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--config {path}: no such file: give the path of a YAML file such as configs/quickstart.yaml")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {_yaml_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: the file must hold `key: value` lines, not a {type(values).__name__}")
    return values


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(getattr(error, "problem", None) or error).split())


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not an override: write key=value, such as max_steps=10")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{override!r}: the value is not valid YAML: {_yaml_problem(error)}") from None
    *sections, name = key.split(".")
    for depth, section in enumerate(sections, start=1):
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise UserError(f"{override!r}: {'.'.join(sections[:depth])!r} is a value, not a section")
        values = inner
    values[name] = value


def _one_line(error: ValidationError, path: str) -> str:
    problems = error.errors()
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{path}: {_explain(first)}{more}"


def _explain(problem: dict[str, Any]) -> str:
    location = [part for part in problem["loc"] if isinstance(part, str) and part != "[key]"]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _section_at(location[:-1]).model_fields
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        mend = (
            f"did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else f"known keys are {', '.join(known)}"
        )
        return f"unknown key {name!r}: {mend}"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        return f"{name!r}: {reason}" if name else reason
    bounds = _bounds(location)
    expected = f"must be {bounds}" if bounds else problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name!r} is {problem['input']!r}: {expected}"


def _section_at(location: list[str]) -> type[Section]:
    section: type[Section] = Config
    for name in location:
        section = next(part for part in _parts(section.model_fields[name].annotation) if issubclass(part, Section))
    return section


def _parts(annotation: Any) -> tuple[type, ...]:
    """Return the types of a setting: one, or those of a union such as `int | None`; none for containers."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return tuple(member for member in members if isinstance(member, type) and not get_args(member))


def _bounds(location: list[str]) -> str:
    """Return the type and range of a plain setting in words, or "" where it has none."""
    try:
        field = _section_at(location[:-1]).model_fields[location[-1]]
    except (KeyError, StopIteration):
        return ""
    kinds = [kind.__name__ for kind in _parts(field.annotation) if kind in (int, float, bool, str)]
    if not kinds:
        return ""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[kinds[0]]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(rule, attribute)}"
        for rule in field.metadata
        for attribute, sign in signs.items()
        if getattr(rule, attribute, None) is not None
    ]
    return " and ".join([f"{words} {limits[0]}", *limits[1:]]) if limits else words
