"""What goes wrong with a request, in the form in which OpenAI's API says it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

RETRY_AFTER_SECONDS = 1


class RequestError(Exception):
    """A request that is not served.

    Attributes:
        status: of HTTP.
        param: the field that is at fault, or None.
        code: a short name that programs can look for, or None.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return {"error": {"message", "type", "param", "code"}}."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the HTTP response; 503 asks the client to come back."""
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status == 503 else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):  # the rest of the body was not read
            headers["Connection"] = "close"
        return JSONResponse(self.body(), self.status, headers)


def unreadable(error: ValidationError) -> RequestError:
    """Return the 400 that says the first thing wrong with a body, where it is and what would be right."""
    first = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    param = _path((*first["loc"], context["param"]) if "param" in context else first["loc"]) or None
    kind = first["type"]
    if kind == "json_invalid":
        return RequestError(400, f"The body is not valid JSON: {context['error']}.", code="invalid_json")
    if kind == "model_type":
        return RequestError(400, "The body must be a JSON object.", code="invalid_type")
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
        return RequestError(400, message, param=param, code="missing_required_parameter")
    if kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
        return RequestError(400, message, param=param, code="unknown_parameter")
    if kind == "unsupported":
        return RequestError(400, first["msg"], param=param, code="unsupported_parameter")
    reason = first["msg"].removeprefix("Value error, ")
    return RequestError(400, f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """Return the place of a fault as OpenAI writes it: messages[0].content."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
