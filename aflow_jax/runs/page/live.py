"""The page while the run goes on: served on loopback, with the run's figures as they come."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from aflow_jax.runs.page.contents import ROLLOUT_FILE, RunContents
from aflow_jax.runs.page.document import document

_NEVER_KEPT = {"Cache-Control": "no-store"}


def live_app(folder: Path) -> Starlette:
    """Return the server of a run's page: `/`, `/payload` with an ETag, and `/rollouts/NAME`.

    Only requests for a name of this machine are answered, so that no page elsewhere can read the run through a host
    name of its own that leads here.

    Raises:
        UserError: no run is in the folder, or plotly is not installed.
    """
    contents, reading = RunContents(folder), asyncio.Lock()
    page = "".join(document(None, ()))

    async def show(request: Request) -> Response:
        return Response(page, media_type="text/html", headers=_NEVER_KEPT)

    async def payload(request: Request) -> Response:
        version = await asyncio.to_thread(contents.version)
        tag = f'"{hashlib.sha256(version.encode()).hexdigest()[:24]}"'
        headers = {**_NEVER_KEPT, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        async with reading:
            body = await asyncio.to_thread(_compressed_payload, contents)
        return Response(body, media_type="application/gzip", headers=headers)

    async def rollouts(request: Request) -> Response:
        name = request.path_params["name"]
        path = folder / "rollouts" / name
        if not ROLLOUT_FILE.fullmatch(name) or not path.is_file():
            return Response("no such rollouts", status_code=404)
        return FileResponse(path, media_type="application/gzip", headers=_NEVER_KEPT)

    return Starlette(
        routes=[Route("/", show), Route("/payload", payload), Route("/rollouts/{name}", rollouts)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])],
    )


def _compressed_payload(contents: RunContents) -> bytes:
    return gzip.compress(json.dumps(contents.payload()).encode(), 1)
