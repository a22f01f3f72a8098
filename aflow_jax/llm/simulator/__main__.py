"""Run the simulator: python -m aflow_jax.llm.simulator --problems FILE [--port 0] …

Prints one line with its address once it listens, and ends on Ctrl-C.
"""

import argparse
import json
import os
import select
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from aflow_jax.errors import UserError
from aflow_jax.llm.simulator.book import read_book
from aflow_jax.llm.simulator.faults import FAULTS, Faults
from aflow_jax.llm.simulator.mind import Mind
from aflow_jax.llm.simulator.server import MODEL, Settings, create_app
from aflow_jax.llm.simulator.skills import read_skills, with_defaults

_BACKLOG = 4096


def main() -> int:
    """Serve until stopped; return the exit code."""
    arguments = _arguments()
    try:
        book = read_book(arguments.problems)
        skills = with_defaults(read_skills(arguments.skills) if arguments.skills else None)
        settings = _settings(arguments)
        listener = _listen(arguments.host, arguments.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    app = create_app(Mind(book, skills, arguments.seed), book.size, settings)
    # Its log would fill with the faults that it commits on purpose.
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, lifespan="off", timeout_keep_alive=75, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    if arguments.end_with_parent:
        threading.Thread(target=_end_with_parent, args=(server, os.getppid()), daemon=True).start()
    host, port = listener.getsockname()[:2]
    print(f"simulator listening at http://{host}:{port}/v1 (simulated replies; {book.size} problems)", flush=True)
    server.run(sockets=[listener])
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.llm.simulator",
        description="An OpenAI-compatible server that stands in for a paid model. It knows the gold answers.",
    )
    parser.add_argument("--problems", type=Path, required=True, metavar="FILE", help="JSONL of the problems it knows")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of its answers, latencies and faults")
    parser.add_argument("--skills", metavar="FILE|JSON", help="{domain: {operator: chance of being right}}")
    parser.add_argument("--latency", metavar="MEDIAN,P95", help="seconds of a reply, lognormal (default: at once)")
    parser.add_argument("--faults", metavar="JSON", help=f"{{fault: rate}}; faults: {', '.join(FAULTS)}")
    parser.add_argument("--models", default=MODEL, help="comma-separated model names it answers to")
    parser.add_argument("--api-key-variable", metavar="NAME", help="environment variable with a key to demand")
    parser.add_argument("--end-with-parent", action="store_true", help="end when standard input closes")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    api_key = None
    if arguments.api_key_variable:
        api_key = os.environ.get(arguments.api_key_variable)
        if not api_key:
            raise UserError(f"--api-key-variable: {arguments.api_key_variable} is not set in the environment")
    try:
        faults = json.loads(arguments.faults) if arguments.faults else {}
    except ValueError as error:
        raise UserError(f"--faults: not JSON ({error})") from None
    if not isinstance(faults, dict):
        raise UserError("--faults: must be a JSON object {fault: rate}")
    return Settings(
        seed=arguments.seed,
        models=tuple(name.strip() for name in arguments.models.split(",")),
        latency=_latency(arguments.latency) if arguments.latency else None,
        faults=Faults.from_mapping(faults),
        api_key=api_key,
    )


def _latency(text: str) -> tuple[float, float]:
    try:
        median, p95 = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--latency {text}: must be MEDIAN,P95 in seconds, as in 1,4") from None
    if not 0 < median <= p95 < float("inf"):
        raise UserError(f"--latency {text}: must have 0 < MEDIAN <= P95")
    return median, p95


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); name another port") from None


def _end_with_parent(server: uvicorn.Server, parent: int) -> None:
    """End the server once its parent has closed our standard input, or is gone."""
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not os.read(sys.stdin.fileno(), 1024):
            break
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
