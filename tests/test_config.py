"""Settings: what is accepted, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml

from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_config(file, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat: 1.0e-4", "unknown key 'learning_rat': did you mean 'learning_rate'?"),
        ("wa_grpo: {alph: 0.1}", "unknown key 'wa_grpo.alph': did you mean 'wa_grpo.alpha'?"),
        ("learning_rate: 3", "'learning_rate' is 3: must be a number > 0.0 and ≤ 1.0"),
        ("max_steps: -1", "'max_steps' is -1: must be a whole number ≥ 0"),
        ("max_steps: true", "'max_steps' is True: must be a whole number ≥ 0"),
        ("max_steps: 2.5", "'max_steps' is 2.5: must be a whole number ≥ 0"),
        ("synthetic_data: {train: 0}", "'synthetic_data.train' is 0: must be a whole number ≥ 1"),
        ("exp_name: 3", "'exp_name' is 3: must be text"),
        ("gradient_checkpointing: half", "'gradient_checkpointing' is 'half': input should be True, False"),
        ("loss_type: ppo", "'loss_type' is 'ppo': input should be 'grpo', 'dapo'"),
        ("dual_clip: 1.1", "'dual_clip' is 1.1: must be > 1.2, the upper clip of the ratio"),
        ("dual_clip: 1.5\nclip_range_high: 0.6", "'dual_clip' is 1.5: must be > 1.6"),
        ("dual_clip: 3.0\nloss_type: cispo", "'dual_clip' has no meaning under loss_type cispo"),
        ("clip_range: 1.5", "'clip_range' is 1.5: must be a number > 0.0 and ≤ 1.0"),
        ("importance_cap: 0.5", "'importance_cap' is 0.5: must be a number ≥ 1.0"),
        ("importance_sampling: sometimes", "'importance_sampling' is 'sometimes': input should be 'token', 'sequence'"),
        ("lora_target_modules: q_proj,w_proj", "'lora_target_modules': 'w_proj' is not one of q_proj,"),
        ("domain_ratios: {math: 0.5, qa: 0.4}", "'domain_ratios': the ratios must be 0 or more and add up to 1"),
        ("domain_ratios: {maths: 1.0}", "'domain_ratios.maths' is 'maths': input should be 'math', 'code' or 'qa'"),
        ("workflow_format: python", "'workflow_format' is 'python': input should be 'language' or 'aflow'"),
        (
            "workflow_format: aflow\nconstrained_sampling: true",
            "'constrained_sampling' follows the workflow language alone: set it to false",
        ),
        ("train_dataset: null", "set train_dataset to a JSONL file, or synthetic_data to generate problems"),
        ("seed: 1\nseed: 2", "line 2, column 1: key 'seed' is given twice"),
        ("- 1", "the file must hold `key: value` lines, not a list"),
        ("seed: [", "not valid YAML: line 1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(tmp_path, text)
    assert expected in message
    assert str(tmp_path / "settings.yaml") in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_overrides_reach_into_sections_and_are_checked_like_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("wa_grpo: {alpha: 0.5}", encoding="utf-8")
    config = load_config(file, ["wa_grpo.alpha=0", "learning_rate=1e-3", "warm_start.steps=7"])
    assert (config.wa_grpo.alpha, config.learning_rate, config.warm_start.steps) == (0, 1e-3, 7)
    assert "'wandb.enabled' is 'maybe': must be true or false" in refusal(tmp_path, "", "wandb.enabled=maybe")
    assert "write key=value" in refusal(tmp_path, "", "max_steps")
    assert "'seed' is a value, not a section" in refusal(tmp_path, "seed: 1", "seed.x=1")


def test_resolved_settings_read_back_as_they_were(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "quickstart.yaml", ["seed=9"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(file) == config


def test_every_shipped_config_loads() -> None:
    names = [path for path in CONFIGS.rglob("*.yaml") if "exp_name" in path.read_text(encoding="utf-8")]
    assert {"quickstart.yaml", "training.yaml"} <= {path.name for path in names}
    for path in names:
        assert load_config(path).exp_name


def test_training_config_has_the_published_values() -> None:
    values = yaml.safe_load((CONFIGS / "training.yaml").read_text(encoding="utf-8"))
    assert values["base_model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert (values["num_return_sequences_in_group"], values["rollout_batch_size"]) == (2, 5)
    assert (values["learning_rate"], values["max_steps"], values["warmup_steps"]) == (2e-5, 500, 100)
    assert (values["lora_rank"], values["lora_alpha"], values["lora_dropout"]) == (64, 64, 0.05)
    assert (values["prompt_max_length"], values["response_max_length"]) == (3072, 5120)
    assert values["temperature_schedule"] == {"enabled": True, "initial": 0.5, "final": 0.15, "warmup_steps": 150}
    assert sum(values["reward_weights"].values()) == pytest.approx(1.0)
    defaults = Config().model_dump(mode="json")
    differing = {key for key, value in values.items() if defaults[key] != value}
    assert differing <= {"exp_name", "run_dir", "sampling_slots", "wandb"}


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (75, 0.325), (150, 0.15), (400, 0.15)])
def test_temperature_goes_linearly_to_its_final_value(step: int, expected: float) -> None:
    assert Config().temperature_schedule.at(step) == pytest.approx(expected)
