"""What comes back from a call: a reply, or the fault that stands in its place."""

import json
from dataclasses import dataclass
from typing import Any, Literal

FaultKind = Literal["LLM_UNAVAILABLE", "RATE_LIMITED"]
Usage = tuple[int, int, int]


class LLMFault(Exception):
    """An infrastructure fault: no usable reply, and the policy is not to blame. The message never holds a key.

    Attributes:
        kind: "RATE_LIMITED" or "LLM_UNAVAILABLE", the name of the outcome.
        retriable: whether the same request may succeed later.
        retry_after: seconds that the server asked to wait, or None.
        unreachable: whether no connection was made at all.
        usage: what an unusable reply cost nevertheless, as in `Completion`.
        seconds: how long the request took.
    """

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        retriable: bool = True,
        retry_after: float | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FaultKind = kind
        self.retriable = retriable
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.usage: Usage | None = None
        self.seconds = 0.0


class TooLong(LLMFault):
    """What was asked for is too long: the reply reached max_tokens, or the prompt does not fit the model.

    The endpoint did its part, and would do the same again. Who wrote the request decides what that means: for an
    operator it is the workflow's fault (OPERATOR_FORMAT), since an instruction can ask for any length; for anyone who
    does not tell it from other faults, there is no reply to use.

    Attributes:
        reply: the reply that was cut and has to be paid; None where the prompt was refused.
    """

    def __init__(self, message: str, reply: "Reply | None" = None) -> None:
        super().__init__("LLM_UNAVAILABLE", message, retriable=False)
        self.reply = reply


@dataclass(frozen=True)
class Reply:
    """One completed call.

    Attributes:
        text: what the model said; never empty, and cut only inside TooLong.
        prompt_tokens: as the server counted, else estimated (see `usage_estimated`).
        completion_tokens: likewise.
        usd: US dollars that the call costs, or did when it was first made; None where the price is not known.
        latency: seconds of the request that brought the reply, waits before it and earlier attempts aside.
        cached: whether the reply came from the response cache, free of charge.
        usage_estimated: whether the server stated no usage; tokens are then characters / 4, and `usd` is None.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    latency: float
    cached: bool = False
    usage_estimated: bool = False


@dataclass(frozen=True)
class Completion:
    """The part of a chat completion that outlives the call, as the cache keeps it.

    Attributes:
        text: what the model said; may be empty where it was cut.
        usage: (prompt tokens, completion tokens, prompt tokens served from the server's cache), None where not stated.
        cut: whether max_tokens ended it.
    """

    text: str
    usage: Usage | None
    cut: bool = False


def read_completion(body: bytes) -> Completion:
    """Return the completion in an HTTP body.

    Raises:
        LLMFault: the body is a page, not JSON, or of another shape; the content is null, empty or withheld.
    """
    choice, usage = _read_choice(body)
    try:
        return Completion(_read_content(choice), usage, choice.get("finish_reason") == "length")
    except LLMFault as fault:
        fault.usage = usage
        raise


def well_formed(text: str) -> str:
    """Return the text with lone surrogates, which JSON can spell and UTF-8 cannot, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def estimated_tokens(text: str) -> int:
    """Return characters / 4, rounded up: the usual rule of thumb for English and code."""
    return -(-len(text) // 4)


def _read_choice(body: bytes) -> tuple[dict[str, Any], Usage | None]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        page = body.lstrip()[:1] == b"<"
        what = "an HTML page instead of JSON; is base_url right?" if page else "a body that is not JSON"
        raise _unusable(what) from None
    if not isinstance(data, dict) or not isinstance(data.get("choices"), list):
        raise _unusable("JSON that is not a chat completion")
    if not data["choices"] or not isinstance(data["choices"][0], dict):
        raise _unusable("a chat completion without choices")
    return data["choices"][0], _read_usage(data.get("usage"))


def _read_content(choice: dict[str, Any]) -> str:
    message, reason = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise _unusable("a choice without a message")
    content = message.get("content")
    if reason == "length":
        return well_formed(content) if isinstance(content, str) else ""
    if isinstance(message.get("refusal"), str) and not content:
        raise _unusable("the model refused")
    if reason == "content_filter":
        raise _unusable("the server's content filter withheld the reply", retriable=False)
    if not isinstance(content, str) or not content.strip():
        raise _unusable("a reply without content")
    return well_formed(content)


def _read_usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(type(count) is int and count >= 0 for count in counts):
        return None
    details = usage.get("prompt_tokens_details")
    # OpenAI's name for what came from the server's prompt cache, else DeepSeek's.
    cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("prompt_cache_hit_tokens")
    cached = cached if type(cached) is int and 0 <= cached <= counts[0] else 0
    return counts[0], counts[1], cached


def _unusable(message: str, *, retriable: bool = True) -> LLMFault:
    return LLMFault("LLM_UNAVAILABLE", message, retriable=retriable)
