"""From a YAML file and `key=value` overrides to checked settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aflow_jax.config.explain import in_one_line
from aflow_jax.config.settings import Config
from aflow_jax.errors import UserError
from aflow_jax.paths import found_config


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read the settings of `path`, or of a packaged preset by its name, apply `key=value` overrides, check everything.

    Raises:
        UserError: a missing or malformed file, an unknown key, a value of the wrong type or out of range.
    """
    path = found_config(path)
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(in_one_line(error, str(path))) from None


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
