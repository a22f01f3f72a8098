"""The sections of the settings, each with its keys, ranges and meaning."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


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


class ResponseCache(Section):
    """Replies of the executor and judge kept on disk, so that a resumed or repeated step makes no call again.

    The simulator and the local model, which cost nothing, are not cached.
    """

    enabled: bool = Field(True, description="whether replies are kept")
    path: str | None = Field(
        None,
        description="SQLite file on a local disk, which runs may share; null is replies.sqlite in the run's folder",
    )
    max_gb: float = Field(1.0, gt=0.0, description="size in 10^9 bytes; what was unused for longest goes first")


class WarmStart(Section):
    """Supervised learning on workflow demonstrations before GRPO."""

    demonstrations: str | None = Field(
        None,
        description="JSONL of problems with a `workflow` field; null draws standard workflows at random",
    )
    steps: int = Field(100, ge=1, description="optimizer steps")
    batch_size: int = Field(16, ge=1, description="demonstrations a step")
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0, description="peak learning rate")


class RejectionSampling(Section):
    """Supervised learning on the policy's own best workflows, after the warm start and before GRPO."""

    rounds: int = Field(1, ge=1, description="how often workflows are sampled and those that were right are learnt")
    problems: int = Field(64, ge=1, description="training problems sampled for in a round")
    samples: int = Field(8, ge=1, le=1024, description="workflows sampled for each problem")
    temperature: float = Field(1.0, gt=0.0, le=5.0, description="sampling temperature")
    keep: int = Field(1, ge=1, description="right workflows kept of each problem, those of the highest reward")
    steps: int = Field(50, ge=1, description="optimizer steps a round")
    batch_size: int = Field(16, ge=1, description="kept workflows a step")
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0, description="peak learning rate")


class DynamicSampling(Section):
    """Further problems in place of those whose workflows are all right or all wrong, and so teach nothing."""

    max_rounds: int = Field(2, ge=1, description="times that further problems are sampled in a step, at most")


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


class MeshSettings(Section):
    """How the devices of all processes are laid out: data × model."""

    data: int = Field(-1, ge=-1, description="parts of each batch and of the slots; -1 takes what `model` leaves")
    model: int = Field(1, ge=-1, description="parts of each matrix and of the heads; keep it within a machine")
    fsdp: bool = Field(False, description="cut the base over `data` too: least memory, but every layer is gathered")

    @field_validator("data", "model")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be a number of devices, or -1 for what the other axis leaves")
        return value


class DistributedSettings(Section):
    """Several processes that train together; what is null is found out from SLURM or Open MPI."""

    coordinator: str | None = Field(
        None, pattern=r"^[^\s:]+:\d+$", description="host:port of process 0, which listens there"
    )
    processes: int | None = Field(None, ge=1, description="how many processes there are")
    process: int | None = Field(None, ge=0, description="number of this one, from 0")
    timeout: int = Field(300, ge=1, description="seconds to wait for all of them at the start")

    @model_validator(mode="after")
    def _whole(self) -> DistributedSettings:
        given = [value is not None for value in (self.coordinator, self.processes, self.process)]
        if any(given) and not all(given):
            raise ValueError("give all of coordinator, processes and process, or none of them under SLURM or Open MPI")
        if self.processes is not None and self.process >= self.processes:
            raise ValueError(f"process {self.process} is not below processes {self.processes}: count from 0")
        return self


class VoidLimit(Section):
    """When infrastructure faults pause training."""

    ratio: float = _fraction(0.05, "share of void rollouts in the window above which training pauses")
    window: int = Field(20, ge=1, description="steps looked back over")
