"""The requests that the server understands, checked; every other field or value is refused, never passed over.

Fields that cannot change a reply are taken and ignored (`IGNORED`). Fields for what the server cannot do are taken
where they ask for nothing (`NEUTRAL`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from aflow_jax.sampling import SamplingParams

MAX_CHOICES = 128  # of one request, over all its prompts
MAX_STOP_STRINGS = 16

# What clients say about themselves, or about how OpenAI runs and bills a request.
IGNORED = frozenset({
    "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
})  # fmt: skip
# For each the values with which it asks for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
# What an assistant's message holds beside its content where a client sends a reply back as it came.
_NEUTRAL_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}


def _strings(value: Any) -> tuple[str, ...]:
    """Read a string, a list of strings, or null."""
    strings = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(string, str) and string for string in strings):
        raise ValueError("must be a string or a list of strings, none of them empty")
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"must be at most {MAX_STOP_STRINGS} strings")
    return tuple(strings)


def _text(value: Any) -> str:
    """Read a message's content: a string, or a list of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError('must be a string or a list of {"type": "text", "text": …}')
    for part in value:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError('a part must be {"type": "text", "text": …}: other parts are not supported')
        if part["type"] != "text":
            raise ValueError("only parts of type 'text' are supported")
    return "".join(part["text"] for part in value)


Prompt = str | tuple[int, ...]


def _prompts(value: Any) -> tuple[Prompt, ...]:
    """Read a string, a list of strings, a list of token ids, or a list of such lists."""
    expected = "must be a string, a list of strings, a list of token ids, or a list of lists of token ids"
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError(expected)
    if all(isinstance(item, str) for item in value):
        return tuple(value)
    rows = [value] if _is_token_ids(value) else value
    if not all(_is_token_ids(row) for row in rows):
        raise ValueError(expected)
    return tuple(tuple(row) for row in rows)


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(_Strict):
    """How a streamed reply ends and is padded.

    Attributes:
        include_usage: whether a last event states the usage.
        include_obfuscation: ignored: events are never padded.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Message(_Strict):
    """One turn of a conversation; a developer's is a system's."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, values: Any) -> Any:
        return _without_neutral(values, _NEUTRAL_IN_MESSAGES)

    def as_template_message(self) -> dict[str, str]:
        """Return the message for the chat template, which knows no developers."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class Generation(_Strict):
    """What both kinds of request may say about how text is generated."""

    model: str
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_strings)] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0.0, lt=1.0)
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {key: value for key, value in values.items() if key not in IGNORED}
        return _without_neutral(kept, {key: NEUTRAL[key] for key in NEUTRAL.keys() - cls.model_fields.keys()})

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "value_error", "is only allowed when 'stream' is true", {"param": "stream_options"}
            )
        return self

    @property
    def choices(self) -> int:
        """Completions of each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed reply ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling_params(self, max_new_tokens: int) -> SamplingParams:
        """Return how to draw: OpenAI's defaults where nothing is said."""
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            stop=self.stop,
        )


class ChatRequest(Generation):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @model_validator(mode="after")
    def _refuse_alternatives(self) -> ChatRequest:
        _refuse_alternatives("top_logprobs", self.top_logprobs)
        return self

    @property
    def bound(self) -> int | None:
        """Tokens of the reply at most; None is what the context has room for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether the reply states each token's log-probability."""
        return bool(self.logprobs)


class CompletionRequest(Generation):
    """The body of POST /v1/completions."""

    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(_prompts)]
    logprobs: int | None = None

    @model_validator(mode="after")
    def _refuse_alternatives(self) -> CompletionRequest:
        _refuse_alternatives("logprobs", self.logprobs)
        return self

    @property
    def bound(self) -> int:
        """Tokens of the reply at most; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether the reply states each token's log-probability."""
        return self.logprobs is not None


def _without_neutral(values: Any, neutral: dict[str, tuple[Any, ...]]) -> Any:
    """Drop fields that ask for nothing, and refuse those that ask for what the server cannot do."""
    if not isinstance(values, dict):
        return values
    for key in neutral.keys() & values.keys():
        if not any(values[key] == value and type(values[key]) is type(value) for value in neutral[key]):
            message = f"Unsupported parameter: this server cannot honour '{key}' = {str(values[key])[:60]}."
            raise PydanticCustomError("unsupported", "{message}", {"message": message, "param": key})
    return {key: value for key, value in values.items() if key not in neutral}


def _refuse_alternatives(param: str, count: int | None) -> None:
    if count:
        message = f"Unsupported value: '{param}' must be 0: log-probabilities are those of the tokens drawn."
        raise PydanticCustomError("unsupported", "{message}", {"message": message, "param": param})
