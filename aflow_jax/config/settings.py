"""All settings of a run, in the order in which they are explained: model, update, sampling, executor, run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from aflow_jax.config.sections import (
    Budget,
    CreateModel,
    DistributedSettings,
    DynamicSampling,
    Evaluation,
    GenerationConfig,
    MeshSettings,
    RejectionSampling,
    ResponseCache,
    RewardWeights,
    Section,
    SimulatorSettings,
    SyntheticData,
    TemperatureSchedule,
    VoidLimit,
    WandbSettings,
    WarmStart,
    WorkflowAware,
    WorkflowLimits,
)

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Domain = Literal["math", "code", "qa"]


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
    mesh: MeshSettings = Field(default_factory=MeshSettings, description="layout of several devices")
    distributed: DistributedSettings | None = Field(None, description="several processes; {} finds out from SLURM")

    num_return_sequences_in_group: int = Field(2, ge=1, le=1024, description="K: workflows sampled for each problem")
    rollout_batch_size: int = Field(5, ge=1, le=65536, description="B: problems a step")
    max_steps: int = Field(500, ge=0, description="GRPO steps")
    max_hours: float | None = Field(
        None, gt=0.0, description="hours after which this process stops with a checkpoint; null is unbounded"
    )
    async_generation_ratio: Literal[0, 1] = Field(
        0, description="1: sample the next step while this step's workflows run, one update behind the policy"
    )
    dynamic_sampling: DynamicSampling | None = Field(None, description="refill groups that teach nothing")
    ppo_epochs: int = Field(1, ge=1, le=64, description="passes over each batch of rollouts")
    gradient_accumulation_steps: int = Field(
        4,
        ge=1,
        description="microbatches that a batch is split into, fewer where prompts are shared; the gradient is the same",
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
        "full", description="the text that teaches the format of workflows; short is for tiny models"
    )
    workflow_format: Literal["language", "aflow"] = Field(
        "language", description="what the policy writes: the workflow language, or AFlow's Python modules"
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
    check_references: bool = Field(
        True, description="leave out code problems whose own answer fails their tests; verdicts are cached"
    )
    synthetic_data: SyntheticData | None = Field(None, description="generate the problems instead")

    aflow_config_path: str = Field("configs/aflow_llm.yaml", description="endpoints of the executor LLMs")
    aflow_executor_model: str = Field("gpt-4o-mini", description="the executor: a name in aflow_config_path")
    aflow_executor_fallbacks: list[str] = Field(
        default_factory=list, description="executors asked, in this order, while those before them are down"
    )
    judge_model: str | None = Field(None, description="the judge: a name in aflow_config_path; null is the executor's")
    aflow_operators: list[str] = Field(
        default_factory=lambda: ["Custom", "AnswerGenerate", "Programmer", "Test", "Review", "Revise", "ScEnsemble"],
        min_length=1,
        description="operators offered to the policy",
    )
    workflow_limits: WorkflowLimits = Field(default_factory=WorkflowLimits, description="bounds of a workflow")
    execution_timeout: float = Field(600, gt=0.0, description="seconds for one workflow")
    call_timeout: float = Field(120, gt=0.0, description="seconds for one LLM call, retries aside")
    call_retries: int = Field(5, ge=0, le=100, description="times that an LLM call is sent again after a passing fault")
    max_concurrent_calls: int = Field(64, ge=1, description="LLM calls in flight")
    sandbox: Literal["auto", "namespaces", "bubblewrap", "landlock", "unsafe"] = Field(
        "auto", description="isolation of model-written programs; auto takes the strongest that the machine offers"
    )
    max_concurrent_sandboxes: int = Field(4, ge=1, description="sandboxed programs at once")
    budget: Budget = Field(default_factory=Budget, description="spending bounds")
    response_cache: ResponseCache = Field(default_factory=ResponseCache, description="replies kept on disk")
    void_limit: VoidLimit = Field(default_factory=VoidLimit, description="infrastructure faults tolerated")
    simulator: SimulatorSettings | None = Field(None, description="simulate the executor LLM")

    warm_start: WarmStart | None = Field(None, description="supervised learning before GRPO")
    rejection_sampling: RejectionSampling | None = Field(
        None, description="supervised learning on the policy's own best workflows before GRPO"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="evaluation inside training")
    eval_every: int = Field(100, ge=0, description="steps between evaluations; 0 is never")
    save_every: int = Field(50, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept, and the best by evaluation besides")
    log_every: int = Field(5, ge=1, description="steps between lines of training.log")
    wandb: WandbSettings = Field(default_factory=WandbSettings, description="Weights & Biases")
    tensorboard: bool = Field(False, description="whether metrics also go to <run_dir>/tensorboard, for TensorBoard")

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

    @model_validator(mode="after")
    def _constraint_knows_the_format(self) -> Config:
        if self.constrained_sampling and self.workflow_format != "language":
            raise ValueError(
                "'constrained_sampling' follows the workflow language alone: set it to false, or 'workflow_format' to "
                "language"
            )
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
