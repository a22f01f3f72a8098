"""The page as one HTML document that asks for nothing from outside.

Its Content-Security-Policy names the scripts by their hashes and allows no connection, so that nothing which a model
wrote can run or be sent anywhere, whatever the scripts do.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from aflow_jax.errors import UserError

SCRIPTS = ("dom", "data", "figures", "charts", "sections", "evaluations", "graph", "list", "detail", "main")

_PLOTLY_MISSING = "the page draws with plotly, which is not installed: pip install plotly"


def document(payload: dict[str, Any] | None, rollout_files: Iterable[Path]) -> Iterable[str]:
    """Yield the HTML piece by piece.

    Args:
        payload: what the page shows, see RunContents.payload; None for the live page, which fetches it.
        rollout_files: the files of rollouts to carry, as they are.

    Raises:
        UserError: plotly is not installed.
    """
    plotly, script = _plotly(), _script()
    live = payload is None
    title = "aflow_jax" if live else f"{payload['run']['name']} · aflow_jax"
    page = (
        _asset("page.html")
        .replace("{{title}}", html.escape(title))
        .replace("{{policy}}", _policy(script, plotly, live=live))
        .replace("{{live}}", "live" if live else "saved")
        .replace("{{style}}", _asset("page.css"))
    )
    head, tail = page.split("{{content}}")
    yield head
    yield _data_block("plotly", gzip.compress(plotly.encode(), 9, mtime=0))
    if payload is not None:
        yield _data_block("payload", gzip.compress(json.dumps(payload).encode(), 6, mtime=0))
    for path in rollout_files:
        yield _data_block(path.name, path.read_bytes())
    yield f"<script>{script}</script>"
    yield tail


def _data_block(name: str, compressed: bytes) -> str:
    """Return bytes as a block that the browser keeps and does not run; base64 has no character of markup."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(compressed).decode()}</script>\n'


def _policy(script: str, plotly: str, *, live: bool) -> str:
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in (script, plotly))
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script() -> str:
    """Return the page's own scripts as one: each is a part of the same scope, in this order."""
    return '(() => {\n"use strict";\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "\n})();\n"


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # half a second: only where the page is made
    except ImportError:
        raise UserError(_PLOTLY_MISSING) from None
    # In an HTML document a carriage return would be a line feed, and the hash another.
    return get_plotlyjs().replace("\r", "")
