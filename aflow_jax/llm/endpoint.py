"""Where an executor LLM is: one entry of configs/aflow_llm.yaml, typed and checked."""

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from aflow_jax.errors import UserError
from aflow_jax.llm.pricing import Price, known_price
from aflow_jax.paths import found

ApiType = Literal["openai", "local"]


class Endpoint(BaseModel):
    """An OpenAI-compatible endpoint and the model asked for there, or the model of this process.

    Attributes:
        name: what configs call it, the key under `models` in aflow_llm.yaml.
        api_type: the protocol; every OpenAI-compatible server is "openai"; "local" is the base model of this process.
        base_url: the address up to and including the version, as in https://api.openai.com/v1; None where local.
        api_key: sent as the bearer token; None where the server needs none. Never shown by repr, str or errors.
        model_name: what the server calls the model.
        temperature: used by calls that state none.
        top_p: nucleus of every call.
        max_tokens: bound of a reply, for calls that state none.
        price: US dollars per million tokens; None is the built-in table's, see `effective_price`.
        max_concurrent_calls: requests in flight there; None is the client's own bound, which holds in any case.
        requests_per_minute: bound of the account; None is unbounded.
        tokens_per_minute: bound of the account over prompt and completion tokens; None is unbounded.
        key_variable: the environment variable that the key came from, for messages.
        path: the file that this entry came from, for messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, protected_namespaces=())

    name: str
    api_type: ApiType = "openai"
    base_url: str | None = Field(None, pattern=r"^https?://[^\s/?#@]+[^\s?#@]*$")
    api_key: SecretStr | None = None
    model_name: str = Field(min_length=1)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(4096, ge=1)
    price: Price | None = None
    max_concurrent_calls: int | None = Field(None, ge=1)
    requests_per_minute: float | None = Field(None, gt=0.0)
    tokens_per_minute: float | None = Field(None, gt=0.0)
    key_variable: str | None = None
    path: str = ""

    @model_validator(mode="after")
    def _has_an_address_unless_local(self) -> "Endpoint":
        if (self.base_url is None) != (self.api_type == "local"):
            raise ValueError("an endpoint has a base_url, and a local model has none")
        return self

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return self.base_url or "this process"

    @property
    def effective_price(self) -> Price | None:
        """The stated price, else nothing for a local model, else the list price of a known model at its maker's API.

        None is an unknown price.
        """
        if self.base_url is None:
            return self.price or Price(input=0.0, output=0.0, cached_input=None)
        return self.price or known_price(self.base_url, self.model_name)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return self.base_url is None or _is_loopback(self.base_url)


def load_endpoint(path: str | Path, model_name: str) -> Endpoint:
    """Return the endpoint that `path` names `model_name` under `models`.

    `${NAME}` in any value of that entry is taken from the environment. A key must be given that way, except for a
    server on this machine, which may have none or a dummy.

    Raises:
        UserError: the file, the entry or the environment variable is missing, a key is unknown or a value out of range.
    """
    entry = _read_entry(Path(path), model_name)
    place = f"{path}: models.{model_name}"
    _refuse_unknown_keys(entry, place)
    entry = {key: value for key, value in entry.items() if value is not None}
    _check_kind(entry, place)
    loopback = _is_loopback(str(entry.get("base_url", "")))
    key = entry.pop("api_key", None)
    secret, variable = _read_key(key, place, loopback) if key is not None else (None, None)
    values = {field: _expand(value, f"{place}.{field}") for field, value in entry.items()}
    values.setdefault("model_name", model_name)
    try:
        return Endpoint(name=model_name, api_key=secret, key_variable=variable, path=str(path), **values)
    except ValidationError as error:
        problem = _describe(error, place)
    raise UserError(problem)


_USER_KEYS = tuple(field for field in Endpoint.model_fields if field not in ("name", "key_variable", "path"))
_REMOTE_KEYS = {"base_url", "api_key", "model_name", "requests_per_minute", "tokens_per_minute"}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _read_entry(path: Path, model_name: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(found(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({_reason(error)}); set aflow_config_path to your endpoints' file"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid YAML: {getattr(error, 'problem', 'malformed')}") from None
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not models:
        raise UserError(f"{path}: has no `models`; write models: {{{model_name}: {{base_url: …, api_key: ${{NAME}}}}}}")
    if model_name not in models:
        known = [str(name) for name in models]
        raise UserError(f"{path}: models has no {model_name!r}{_nearest(model_name, known)}; it has {', '.join(known)}")
    entry = models[model_name]
    if not isinstance(entry, dict):
        raise UserError(f"{path}: models.{model_name} must be a mapping of {', '.join(_USER_KEYS)}")
    return {str(key): value for key, value in entry.items()}


def _refuse_unknown_keys(entry: dict[str, Any], place: str) -> None:
    for key in entry:
        if key not in _USER_KEYS:
            raise UserError(f"{place}: unknown key {key!r}{_nearest(key, _USER_KEYS)}; known: {', '.join(_USER_KEYS)}")


def _check_kind(entry: dict[str, Any], place: str) -> None:
    """Refuse a local model with what only a server has, and a server without its address."""
    if entry.get("api_type") != "local":
        if "base_url" not in entry:
            raise UserError(f"{place}: base_url is missing; add it")
        return
    for key in _REMOTE_KEYS & entry.keys():
        raise UserError(f"{place}.{key}: a local model is the run's own base model in this process; leave {key} out")


def _read_key(value: Any, place: str, loopback: bool) -> tuple[SecretStr | None, str | None]:
    """Return the key and the variable that holds it."""
    match = _VARIABLE.fullmatch(str(value).strip())
    if match is None:
        if not loopback and str(value).strip():
            raise UserError(
                f"{place}.api_key: keys come from the environment only; write ${{OPENAI_API_KEY}}, or the like"
            )
        return (SecretStr(str(value)) if str(value).strip() else None), None
    variable = match.group(1)
    secret = os.environ.get(variable, "").strip()
    if not secret:
        if loopback:
            return None, variable
        raise UserError(f"{place}.api_key: {variable} is not set in the environment; run: export {variable}=<your key>")
    if not secret.isascii() or not secret.isprintable():
        raise UserError(
            f"{place}.api_key: {variable} holds characters that no key has; set it again, without quotes or spaces"
        )
    return SecretStr(secret), variable


def _expand(value: Any, place: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, f"{place}.{key}") for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match.group(1) not in os.environ:
            raise UserError(f"{place}: {match.group(1)} is not set in the environment; run: export {match.group(1)}=…")
        return os.environ[match.group(1)]

    return _VARIABLE.sub(replace, value)


def _describe(error: ValidationError, place: str) -> str:
    """Return one line for the first thing wrong, without the value: a value may be a misplaced secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place}: {key} is missing; add it"
    if key == "base_url":
        return (
            f"{place}.base_url: not an http(s) address without user, query or fragment, like https://api.openai.com/v1"
        )
    if key == "api_type":
        return (
            f"{place}.api_type: must be openai, which reaches any OpenAI-compatible server through its base_url, or "
            "local, the run's own base model"
        )
    return f"{place}.{key}: {first['msg']}"


def _is_loopback(base_url: str) -> bool:
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "not UTF-8 text"
