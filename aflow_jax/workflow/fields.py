"""Text into and out of an LLM: the fenced sections of a prompt, the tagged fields of a reply.

Data never ends a section: a `<` that would open or close one of the tags below is written `&lt;` inside it, and turned
back in what the model answers. Everything else in the data stays as it is, braces and quotes included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TAGS = (
    "answer", "candidate", "candidates", "choice", "code", "context", "entry_point", "feedback", "instruction",
    "problem", "solution", "thought", "true_false", "verdict", "workflow",
)  # fmt: skip
_AHEAD = rf"(?=\s*/?\s*(?:{'|'.join(TAGS)})\b|\|\w+\|>)"
_OPENING = re.compile(rf"(?:<|&(?:amp;)*lt;){_AHEAD}", re.IGNORECASE)
_NEUTRALISED = re.compile(rf"&(?:amp;)*lt;{_AHEAD}", re.IGNORECASE)
_FENCED_BLOCK = re.compile(r"^```[^\n`]*\n(.*?)(?:^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


class FieldError(ValueError):
    """A reply that lacks what was asked for; the message tells the model what is missing."""


def section(tag: str, data: str, **attributes: str) -> str:
    """Return the data as a section of a prompt, which nothing in the data can close."""
    marks = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{marks}>\n{neutralise(data)}\n</{tag}>"


def neutralise(text: str) -> str:
    """Return the text with our own tags, and chat-template tokens, made inert; `restore` is the inverse."""
    return _OPENING.sub(lambda match: "&lt;" if match[0] == "<" else "&amp;" + match[0][1:], text)


def restore(text: str) -> str:
    """Return the text as it was before `neutralise`."""
    return _NEUTRALISED.sub(lambda match: "<" if match[0].lower() == "&lt;" else "&" + match[0][5:], text)


def is_neutralised(text: str) -> bool:
    """Whether the text holds anything that `restore` would turn back."""
    return _NEUTRALISED.search(text) is not None


def read_fields(reply: str, names: Sequence[str]) -> dict[str, str]:
    """Return the named fields of a reply, stripped; a field that is missing, or never closed, is absent.

    Fields inside a field are part of its text. Of a field given twice the last counts, for models that draft first. A
    field ends at the closing tag that balances its opening one, or further on where more closing tags of its name
    follow before any other field opens, so that code may hold its own closing tag in a string.
    """
    tags = list(re.finditer(rf"<(/?)({'|'.join(map(re.escape, names))})>", reply))
    last_closing = {tag[2]: index for index, tag in enumerate(tags) if tag[1]}
    fields: dict[str, str] = {}
    position = 0
    while position < len(tags):
        opening = tags[position]
        if opening[1] or last_closing.get(opening[2], -1) < position:
            position += 1
            continue
        end = _closing(tags, position)
        fields[opening[2]] = reply[opening.end() : tags[end].start()].strip()
        position = end + 1
    return fields


def required_fields(reply: str, names: Sequence[str], *, may_be_empty: Sequence[str] = ()) -> dict[str, str]:
    """Return the named fields; raise FieldError where one is missing or empty."""
    fields = read_fields(reply, names)
    for name in names:
        if name not in fields and name not in may_be_empty:
            raise FieldError(f"the field <{name}>…</{name}> is missing, or is never closed")
        if not fields.setdefault(name, "") and name not in may_be_empty:
            raise FieldError(f"the field <{name}> is empty")
    return fields


def code_in(text: str, entry_point: str | None = None) -> str:
    """Return the program in a text: its last fenced block, or all of it where it has none.

    Where blocks define the entry point, it is the last of those.
    """
    blocks = [match[1].strip("\n") for match in _FENCED_BLOCK.finditer(text)]
    defining = [block for block in blocks if entry_point and defines(block, entry_point)]
    return ([text.strip("\n"), *blocks, *defining])[-1].rstrip()


def defines(code: str, name: str) -> bool:
    """Whether the code seems to define the name at its top level: by its text alone, nothing is compiled or run."""
    name = re.escape(name)
    return (
        re.search(rf"^(?:(?:async\s+)?def\s+{name}\s*\(|class\s+{name}\b|{name}\s*=)", code, re.MULTILINE) is not None
    )


def _closing(tags: list[re.Match[str]], start: int) -> int:
    """Return the index of the tag that closes the field opened at `start`; there is one."""
    name, depth, end, last = tags[start][2], 0, None, start
    for index in range(start, len(tags)):
        closes = tags[index][1] == "/"
        if end is not None and not closes:
            break
        if tags[index][2] == name:
            depth += -1 if closes else 1
            last = index if closes else last
            end = index if depth <= 0 else end
    # Without a balance, an opening tag inside the text itself was never closed: the last closing tag is the field's.
    return last if end is None else end
