"""How often the simulated model is right, by domain and operator."""

import json
from collections.abc import Mapping
from pathlib import Path

from aflow_jax.errors import UserError

Skills = Mapping[str, Mapping[str, float]]

# Shaped so that which workflow fits which domain is there to be learned: programs suit math, tested code suits code,
# a thought before the answer suits questions.
DEFAULT_SKILLS: dict[str, dict[str, float]] = {
    "math": {
        "Programmer": 0.92,
        "AnswerGenerate": 0.25,
        "Custom": 0.25,
        "CustomCodeGenerate": 0.05,
        "Test": 0.05,
        "Review": 0.75,
        "Revise": 0.40,
        "Format": 0.95,
        "ScEnsemble": 0.80,
        "MdEnsemble": 0.80,
    },
    "code": {
        "CustomCodeGenerate": 0.70,
        "Programmer": 0.15,
        "Test": 0.85,
        "Custom": 0.15,
        "AnswerGenerate": 0.05,
        "Review": 0.75,
        "Revise": 0.40,
        "Format": 0.95,
        "ScEnsemble": 0.80,
        "MdEnsemble": 0.80,
    },
    "qa": {
        "AnswerGenerate": 0.85,
        "Custom": 0.45,
        "Programmer": 0.10,
        "CustomCodeGenerate": 0.05,
        "Test": 0.05,
        "Review": 0.75,
        "Revise": 0.40,
        "Format": 0.95,
        "ScEnsemble": 0.80,
        "MdEnsemble": 0.80,
    },
}

# For operators that the table does not name.
UNLISTED_SKILL = 0.30


def with_defaults(skills: Skills | None) -> dict[str, dict[str, float]]:
    """Return the default table with the given values in their places.

    Raises:
        UserError: a domain is unknown, or a skill is not a number in [0, 1].
    """
    table = {domain: dict(row) for domain, row in DEFAULT_SKILLS.items()}
    if skills is not None and not isinstance(skills, Mapping):
        raise UserError("simulator.skills: must be {domain: {operator: skill}}")
    for domain, row in (skills or {}).items():
        if domain not in table:
            raise UserError(f"simulator.skills: unknown domain {domain!r}; known: {', '.join(table)}")
        if not isinstance(row, Mapping):
            raise UserError(f"simulator.skills.{domain}: must be {{operator: skill}}")
        for operator, skill in row.items():
            if isinstance(skill, bool) or not isinstance(skill, (int, float)) or not 0 <= skill <= 1:
                raise UserError(f"simulator.skills.{domain}.{operator}: must be a number from 0 to 1, not {skill!r}")
            table[domain][operator] = float(skill)
    return table


def read_skills(text: str) -> Skills:
    """Return the table in a JSON text, or in the JSON file that `text` names."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--skills {text[:80]}: not a JSON object or a file of one ({error})") from None
