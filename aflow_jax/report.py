"""The page of a run: python -m aflow_jax.report RUN [--out FILE] [--watch [--port PORT]]

One HTML file with the run's curves, workflows, outcomes, evaluations and every rollout. It asks for nothing from
outside and can be sent to anyone. With --watch the page is served on this machine while the run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from pathlib import Path

from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.report",
        description="Write the page of a run: one HTML file that needs no network.",
        epilog="example: python -m aflow_jax.report runs/quickstart --watch",
    )
    parser.add_argument("run", type=Path, help="the folder of a run, finished or under way")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write; RUN/report.html by default")
    parser.add_argument("--watch", action="store_true", help="serve the page here, with each step as it comes")
    parser.add_argument("--port", type=int, default=8090, help="the port of --watch; 0 takes a free one (default 8090)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

import uvicorn

from aflow_jax.commands import exit_code
from aflow_jax.runs.page import live_app, save_page


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # which is how --watch ends
        if options.watch:
            watch(options.run, options.port)
        else:
            say_saved(options.run, options.out)


def say_saved(run: Path, out: Path | None) -> None:
    """Write the page and say where it is and what it lacks."""
    page = save_page(run, out)
    for fault in page.faults:
        print(fault, file=sys.stderr)
    if page.left_out:
        print(f"{page.left_out} files of rollouts are listed but not in the page, for their size; --watch shows them")
    print(f"{page.path}: open it in a browser ({page.path.stat().st_size / 1e6:.1f} MB, no network needed)")


def watch(run: Path, port: int) -> None:
    """Serve the page on loopback until Ctrl-C.

    Raises:
        UserError: no run is there, plotly is not installed, or the port is taken.
    """
    app = live_app(run)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: cannot be used ({error}): give another, or 0 for a free one") from None
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/ shows {run} as it goes on; Ctrl-C ends it", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
