"""One vote of an LLM for one of several candidates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aflow_jax.workflow.fields import FieldError
from aflow_jax.workflow.operators.base import Operator, letter
from aflow_jax.workflow.session import Fields, Session
from aflow_jax.workflow.state import State


async def vote(
    operator: Operator, state: State, instruction: str | None, session: Session, candidates: Sequence[str], number: int
) -> str:
    """Return the candidate that the LLM chooses by its letter; sampled, as vote number `number`."""
    letters = {letter(index): text for index, text in enumerate(candidates)}

    def chosen(fields: Fields) -> str:
        match = re.fullmatch(r"(?:candidate\s+)?\W*([A-Z]+)\W*", fields["choice"], re.IGNORECASE)
        if match is None or match[1].upper() not in letters:
            raise FieldError(f"the choice must be one letter of {', '.join(letters)}")
        return letters[match[1].upper()]

    messages = operator.messages(_ROLE, ("choice",), state, instruction, candidates=candidates)
    return await session.ask(messages, ("choice",), check=chosen, vote=number)


_ROLE = """\
Choose among the candidate answers to the problem the one that is most likely right: work the problem out, and prefer
what several candidates agree on. The choice is the letter of one candidate and nothing else. The order of the
candidates means nothing."""
