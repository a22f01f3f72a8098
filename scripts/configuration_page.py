"""Write docs/configuration.md from the typed settings: python scripts/configuration_page.py [--check]

With --check it writes nothing, and ends with 1 where the page is not what the settings say.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.config import Config

PAGE = Path(__file__).resolve().parent.parent / "docs/configuration.md"
_HEAD = """\
# Settings

Every key of a file of settings, with its default, what it takes and what it means, written from
[the typed settings](../aflow_jax/config) by `python scripts/configuration_page.py`. A file needs only the keys whose
default it changes; `key=value` on the command line overrides the file, and dots reach into sections: `wa_grpo.alpha=0`.
Secrets are no settings: they come from the environment.
"""
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *_section(Config, "")]) + "\n"


def _section(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the table of a section's keys, then the sections inside it."""
    yield from ("| key | default | takes | is |", "|---|---|---|---|")
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is not None:
            inner.append((f"{prefix}{name}", below))
        default = "see below" if below and field.default_factory else _default(field)
        takes = f"[section](#{f'{prefix}{name}'.replace('.', '')})" if below else _takes(field)
        yield f"| `{prefix}{name}` | {default} | {takes} | {_cell(field.description or '')} |"
    for name, below in inner:
        yield from ("", f"## {name}", "", (below.__doc__ or "").strip().splitlines()[0], "")
        yield from _section(below, f"{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    members = get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)
    found = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return found[0] if found else None


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return _cell(f"`{text}`")


def _takes(field: FieldInfo) -> str:
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (UnionType, Union) else (field.annotation,)
    words = " or ".join("null" if kind is NoneType else _kind(kind) for kind in kinds)
    limits = [
        f"{sign} {getattr(rule, key)}" for rule in field.metadata for key, sign in _SIGNS.items() if _has(rule, key)
    ]
    return _cell(" ".join([words, " and ".join(limits)]).strip())


def _has(rule: Any, key: str) -> bool:
    return getattr(rule, key, None) is not None


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_kind(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return f"{_kind(key)}: {_kind(value)}"
    return _WORDS.get(kind, "value")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<exp_name>", "`exp_name`").split())


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    if arguments == ["--check"]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
