"""Settings of a run that takes seconds: a random model of a layer, generated problems, the simulator."""

from pathlib import Path

import yaml

SMALL = {
    "exp_name": "small",
    "seed": 3,
    "create_model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 500},
    "simulator": {},
    "rollout_batch_size": 2,
    "num_return_sequences_in_group": 2,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "lora_rank": 4,
    "lora_target_modules": "q_proj",
    "prompt_style": "short",
    "prompt_max_length": 512,
    "generation_config": {"top_p": 1.0, "top_k": 0, "max_new_tokens": 24},
    "temperature_schedule": {"enabled": False, "initial": 1.0},
    "constrained_sampling": True,  # so that every answer is a workflow, and is run
    "save_every": 1,
    "log_every": 1,
}


def write_settings(path: Path, **changes: object) -> Path:
    """Write SMALL with what is changed and added; return the path."""
    path.write_text(yaml.safe_dump(SMALL | changes), encoding="utf-8")
    return path
