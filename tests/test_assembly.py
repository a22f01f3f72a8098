"""From settings to a policy that is sampled as they say."""

import pytest

from aflow_jax.assembly import ProblemSets, learner_settings, load_policy
from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.problems import generate_problems
from aflow_jax.sampling import Request
from aflow_jax.workflow import WorkflowError, parse_completion


@pytest.fixture(scope="module")
def problems() -> ProblemSets:
    return ProblemSets(generate_problems(None, 12, 0, split="train"), [])


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 700}
    return {
        "exp_name": "constrained",
        "run_dir": str(tmp_path_factory.mktemp("run")),
        "create_model": shape,
        "prompt_style": "short",
        "aflow_operators": ["Custom", "AnswerGenerate", "Programmer", "Review", "Revise", "ScEnsemble"],
        "workflow_limits": {"calls": 3, "nesting": 1},
        "generation_config": {"max_new_tokens": 40},
        "sampling_slots": 8,
    }


def texts(policy, problems) -> list[str]:
    request = Request(prompt_tokens=policy.prompt_tokens(problems.train[0]), seeds=tuple((seed,) for seed in range(8)))
    return [completion.text for completion in policy.engine().generate([request], policy.sampling_params(1.0))]


def parses(text: str, config: Config) -> bool:
    try:
        parse_completion(text, config.aflow_operators, config.workflow_limits)
    except WorkflowError:
        return False
    return True


def test_constrained_sampling_makes_an_untrained_model_write_workflows(settings, problems):
    for constrained in (False, True):
        config = Config(**settings, constrained_sampling=constrained)
        written = texts(load_policy(config, problems, print), problems)
        assert [parses(text, config) for text in written] == [constrained] * 8
    assert not Config(**settings).constrained_sampling


def test_an_answer_too_short_for_any_workflow_is_refused_before_the_weights_load(settings, problems):
    config = Config(**settings | {"response_max_length": 3}, constrained_sampling=True)
    said = []
    with pytest.raises(UserError, match="max_new_tokens 3: constrained_sampling needs"):
        load_policy(config, problems, said.append)
    assert not any("layers" in line for line in said)


@pytest.mark.parametrize(("setting", "policy"), [(True, "full"), (False, "none"), ("dots", "dots")])
def test_gradient_checkpointing_is_a_switch_or_the_name_of_a_policy(settings, setting, policy):
    assert learner_settings(Config(**settings, gradient_checkpointing=setting)).remat == policy
