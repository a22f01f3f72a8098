"""Which tokens may come next, so that what a policy writes is a workflow for certain.

One rule does everything: **a token may be written if after it the shortest way to a whole answer is within every limit
and within the tokens that are left.** The shortest way obeys the rule itself, so there is always a token, and whatever
is drawn, the completion ends with an end token after exactly one `<workflow>…</workflow>` that the strict parser takes:
never PARSE, never LIMIT, never cut. A grammar alone could not say that: the worst case of calls multiplies through
loops, and the tokens that are left are no part of a text.

What it does not forbid: every answer within the limits can be written, with reasoning before the element if there are
tokens for it, but for blanks other than space, tab and line breaks, and text after the element.

The reasoning and the inside of an instruction let nearly the whole vocabulary through: for them each state's table is
made once, by array operations over all tokens. Elsewhere few tokens go on, and a walk over the sorted vocabulary finds
them. Both are kept by state, so a usual mask is a look-up.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from aflow_jax.errors import UserError
from aflow_jax.workflow.grammar import Grammar, State
from aflow_jax.workflow.language import CLOSING, Limits
from aflow_jax.workflow.vocabulary import NEVER, Vocabulary, characters

_FREE = ("reasoning", "string")
_OUTSIDE = ("reasoning", "closing", "finished")
# States whose outlook is kept; each holds a mask of the vocabulary (19 KB for 152k tokens).
_KEPT = 2048
_NOTHING = np.zeros(0, np.int64)


class Reading(NamedTuple):
    """A state of the grammar, with what the limits count.

    Attributes:
        characters: of the element so far.
        instruction: characters of the instruction that is being written.
    """

    state: State
    characters: int = 0
    instruction: int = 0


class Room(NamedTuple):
    """What is left: characters of the element, of the instruction being written, and tokens after the next one."""

    characters: int
    instruction: int
    tokens: int


@dataclass(frozen=True)
class Moves:
    """Some tokens, and what each would take.

    Attributes:
        tokens: their ids.
        characters: characters of the element in each.
        instruction: characters that each adds to the instruction which was open before it.
        ends: which of the places below each leads to.
        closing_characters: for each place, characters of the element in the shortest way to end.
        closing_tokens: for each place, tokens of it, the end token included.
    """

    tokens: Int[np.ndarray, "M"]
    characters: Int[np.ndarray, "M"]
    instruction: Int[np.ndarray, "M"]
    ends: Int[np.ndarray, "M"]
    closing_characters: Int[np.ndarray, "E"]
    closing_tokens: Int[np.ndarray, "E"]

    def needs(self) -> Int[np.ndarray, "3 M"]:
        """Return the least room that each token needs, in the order of `Room`."""
        return np.stack([
            self.characters + self.closing_characters[self.ends],
            self.instruction,
            self.closing_tokens[self.ends],
        ])  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """What may come next in one state, the room aside.

    Attributes:
        moves: all tokens that some room allows.
        largest: the room in which all of them are allowed.
        mask: all of them.
    """

    moves: tuple[Moves, ...]
    largest: Room
    mask: UInt32[np.ndarray, "W"]


class WorkflowConstraint:
    """Makes a matcher for each completion. Matchers share what is known of a state."""

    def __init__(
        self,
        spellings: Sequence[bytes | None],
        vocabulary_size: int,
        end_tokens: Sequence[int],
        operators: Collection[str],
        limits: Limits | None = None,
    ) -> None:
        """Prepare a vocabulary and a language.

        Args:
            spellings: for each token id the bytes that it stands for; None for one that is no text.
            vocabulary_size: rows of the model's logits.
            end_tokens: tokens that end a completion.
            operators: the names that may be used.
            limits: bounds; `Limits()` where None.

        Raises:
            UserError: no workflow is within the limits, or the vocabulary cannot spell one.
        """
        self.limits = limits or Limits()
        self.grammar = Grammar(operators, self.limits)
        self.vocabulary = Vocabulary(spellings, vocabulary_size, end_tokens)
        self.outlook = functools.lru_cache(maxsize=_KEPT)(self._outlook)
        self._crossing = functools.cache(self._cross)
        shortest = self.grammar.operators[0]
        if len(shortest) > self.limits.characters or self.limits.calls < 1:
            raise UserError(f"workflow_limits leave no room for any workflow, not even {shortest}: raise them")
        self.minimum_tokens = self._closing_tokens(self.grammar.start)
        if self.minimum_tokens >= NEVER:
            raise UserError("constrained_sampling: the tokenizer has no tokens that spell a workflow")

    def matcher(self, max_new_tokens: int) -> "WorkflowMatcher":
        """Return the matcher of a completion of at most `max_new_tokens` tokens, its end token included.

        Raises:
            UserError: so few tokens hold no workflow.
        """
        if max_new_tokens < self.minimum_tokens:
            raise UserError(
                f"max_new_tokens {max_new_tokens}: constrained_sampling needs {self.minimum_tokens} tokens for the "
                "shortest workflow: raise it"
            )
        return WorkflowMatcher(self, max_new_tokens)

    def read(self, reading: Reading, byte: int) -> Reading | None:
        """Return the reading after a byte; None where no workflow goes on so, or the instruction is too long."""
        before = reading.state
        after = self.grammar.read(before, byte)
        if after is None:
            return None
        counts = before.at != "reasoning" and after.at not in _OUTSIDE and byte & 0xC0 != 0x80
        instruction = 0
        if before.at == "string":
            begins = self.grammar.texts["string"].begins[before.text, byte]
            instruction = reading.instruction + int(begins)
            if instruction > self.limits.instruction:
                return None
        return Reading(after, reading.characters + counts, instruction)

    def _outlook(self, state: State) -> Outlook:
        if state.at == "finished":
            moves = [_ending(self.vocabulary.ends)]
        elif state.at in _FREE:
            moves = [self._staying(state), self._leaving(state)]
        else:
            walked = self.vocabulary.walk(Reading(state), self.read)
            moves = [self._moves([(token, after.characters, 0, after.state) for token, after in walked])]
        needs = np.concatenate([part.needs() for part in moves], axis=1)
        tokens = np.concatenate([part.tokens for part in moves])
        possible = needs[2] < NEVER
        largest = needs[:, possible].max(axis=1, initial=0)
        return Outlook(tuple(moves), Room(*largest.tolist()), self.vocabulary.packed(tokens[possible]))

    def _cross(self, at: str, text: int) -> tuple[Moves, list[list[int]]]:
        """Return what follows a state of a free text, whatever is open around it.

        First the tokens that stay in the text, their closings left out; then for each token that leaves it: its place
        among the vocabulary's, how many of its bytes lead out, and how many characters of the text it begins.
        """
        vocabulary, crossing = self.vocabulary, self.vocabulary.cross(self.grammar.texts[at], text)
        inside, outside = np.flatnonzero(crossing.ends >= 0), np.flatnonzero(crossing.left)
        counts = at == "string"  # the reasoning is outside the element, and no limit counts it
        staying = Moves(
            vocabulary.tokens[inside],
            vocabulary.characters[inside] * counts,
            crossing.begun[inside] * counts,
            crossing.ends[inside],
            _NOTHING,
            _NOTHING,
        )
        leaving = np.stack([outside, crossing.left[outside], crossing.begun[outside] * counts], axis=1)
        return staying, leaving.tolist()

    def _staying(self, state: State) -> Moves:
        """Return the tokens that are free text from end to end."""
        places = [state._replace(text=text) for text in range(len(self.grammar.texts[state.at].finish))]
        return replace(
            self._crossing(state.at, state.text)[0],
            closing_characters=np.array([self._closing_characters(place) for place in places]),
            closing_tokens=np.array([self._closing_tokens(place) for place in places]),
        )

    def _leaving(self, state: State) -> Moves:
        """Return the tokens that begin in the free text and end behind it."""
        left_to = State("stage" if state.at == "reasoning" else "quoted", state.stack, state.calls, state.word)

        @functools.cache
        def rest(text: bytes) -> Reading | None:
            reading = Reading(left_to)
            for byte in text:
                if (reading := self.read(reading, byte)) is None:
                    return None
            return reading

        found = []
        for index, length, begun in self._crossing(state.at, state.text)[1]:
            text = self.vocabulary.spellings[index]
            if (after := rest(text[length:])) is not None:
                inside = characters(text[:length]) if state.at == "string" else 0
                found.append((int(self.vocabulary.tokens[index]), inside + after.characters, begun, after.state))
        return self._moves(found)

    def _moves(self, found: list[tuple[int, int, int, State]]) -> Moves:
        """Return moves from (token, characters, characters of the open instruction, state after it)."""
        numbers: dict[State, int] = {}
        within = [entry for entry in found if self.grammar.calls(entry[3]) <= self.limits.calls]
        ends = [numbers.setdefault(state, len(numbers)) for *_, state in within]
        table = np.array([entry[:3] for entry in within], np.int64).reshape(-1, 3)
        return Moves(
            table[:, 0],
            table[:, 1],
            table[:, 2],
            np.array(ends, np.int64),
            np.array([self._closing_characters(state) for state in numbers], np.int64),
            np.array([self._closing_tokens(state) for state in numbers], np.int64),
        )

    def _closing_characters(self, state: State) -> int:
        if state.at in ("closing", "finished"):
            return 0
        closing = self.grammar.closing(state)
        if state.at == "reasoning":
            return len(self.grammar.operators[0])
        return characters(closing.removesuffix(CLOSING.encode()))

    def _closing_tokens(self, state: State) -> int:
        return min(NEVER, self.vocabulary.fewest(self.grammar.closing(state)) + 1)


class WorkflowMatcher:
    """Follows one completion."""

    def __init__(self, constraint: WorkflowConstraint, max_new_tokens: int) -> None:
        self._constraint = constraint
        self._reading = Reading(constraint.grammar.start)
        self._tokens_left = max_new_tokens
        self._mask: UInt32[np.ndarray, W] | None = None

    def mask(self) -> UInt32[np.ndarray, "W"]:
        """Return the tokens that may come next: bit `t % 32` of word `t // 32` stands for token `t`."""
        if self._mask is None:
            self._mask = self._fitting()
        return self._mask

    def accept(self, token: int) -> None:
        """Go on with a token that the mask allows.

        Raises:
            ValueError: it does not.
        """
        if not self.mask()[token // 32] >> np.uint32(token % 32) & 1:
            raise ValueError(f"token {token} is not among those that may come next")
        self._tokens_left -= 1
        self._mask = None
        if self._reading.state.at == "finished":
            self._mask = self._constraint.vocabulary.packed(np.zeros(0, np.int32))
            return
        for byte in self._constraint.vocabulary.text_of[token]:
            self._reading = self._constraint.read(self._reading, byte)

    def _fitting(self) -> UInt32[np.ndarray, "W"]:
        limits, reading = self._constraint.limits, self._reading
        outlook = self._constraint.outlook(reading.state)
        room = Room(
            limits.characters - reading.characters, limits.instruction - reading.instruction, self._tokens_left - 1
        )
        if all(have >= need for have, need in zip(room, outlook.largest, strict=True)):
            return outlook.mask
        fitting = [part.tokens[(part.needs() <= np.array(room)[:, None]).all(axis=0)] for part in outlook.moves]
        return self._constraint.vocabulary.packed(np.concatenate(fitting))


def _ending(ends: Sequence[int]) -> Moves:
    nothing = np.zeros(len(ends), np.int64)
    return Moves(np.array(ends), nothing, nothing, nothing, np.zeros(1, np.int64), np.zeros(1, np.int64))
