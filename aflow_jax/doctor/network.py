"""What a run needs from elsewhere: the base model's files, the executor LLM, Weights & Biases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from aflow_jax.doctor.findings import Finding, Subject, of_settings
from aflow_jax.errors import UserError

if TYPE_CHECKING:
    from aflow_jax.config import Config

_PATIENCE = 15.0  # seconds for one answer
_SAMPLE_BYTES = 4 << 20
_SAMPLE_SECONDS = 5.0
_SLOW_DOWNLOAD = 3600.0
_SLOW_CALL = 10.0


@of_settings
def check_hub(subject: Subject, config: Config) -> Iterator[Finding]:
    """Find whether the base model's files are here or can be had, and how long the download will take."""
    if config.create_model:
        yield Finding("ok", "model", "made by the run itself: no download")
        return
    folder = Path(config.base_model).expanduser()
    if not folder.exists():
        yield _hub_finding(subject, config.base_model)
    elif any(folder.glob("*.safetensors")) and (folder / "config.json").is_file():
        yield Finding("ok", "model", f"{folder}: no download")
    else:
        yield Finding("FAIL", "model", f"{folder} lacks config.json or *.safetensors", "give a whole model folder")


@of_settings
def check_executor(_: Subject, config: Config) -> Iterator[Finding]:
    """Find whether the executor's and the judge's endpoints take the key, and how fast they answer."""
    if config.simulator:
        yield Finding("ok", "executor", "simulated on this machine: no key, no network")
        return
    judge = config.judge_model or config.aflow_executor_model
    for name in dict.fromkeys((config.aflow_executor_model, *config.aflow_executor_fallbacks, judge)):
        yield asyncio.run(_asked(config, name))


@of_settings
def check_wandb(subject: Subject, config: Config) -> Iterator[Finding]:
    """Find whether metrics will go to Weights & Biases, or be kept for later."""
    environment = subject.environment
    if not config.wandb.enabled:
        return
    key = environment.get("WANDB_API_KEY")
    offline = environment.get("WANDB_MODE") == "offline"
    if offline or not key:
        why = "WANDB_MODE=offline" if offline else "WANDB_API_KEY is not set"
        text = f"offline, for {why}: recorded in {config.run_folder}/wandb"
        yield Finding("ok", "wandb", f"{text}; `wandb sync` uploads it, or export WANDB_API_KEY=… first")
        return
    yield _wandb_finding(environment.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/"), key)


def _hub_finding(subject: Subject, name: str) -> Finding:
    from huggingface_hub import constants

    hub = subject.environment.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    mirror = "set HF_ENDPOINT to a mirror within reach, or give the model's folder as base_model"
    try:
        status, info = _model_info(hub, name)
    except (httpx2.HTTPError, ValueError, OSError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        if _cached(name, "config.json"):
            return Finding("warn", "model", f"{hub} cannot be reached; {name} may be in the cache ({why})", mirror)
        return Finding("FAIL", "model", f"{hub} cannot be reached ({why})", mirror)
    if status != 200:
        mend = "check base_model, export HF_TOKEN=… where access is granted by name, or give a folder"
        return Finding("FAIL", "model", f"{hub} does not give {name} to you ({status})", mend)
    siblings = [file for file in info.get("siblings", ()) if file["rfilename"].endswith(".safetensors")]
    files = {file["rfilename"]: file.get("size") or 0 for file in siblings}
    missing = {file: size for file, size in files.items() if not _cached(name, file)}
    if not missing:
        return Finding("ok", "model", f"{name} is in the cache: no download")
    largest = max(missing, key=lambda file: missing[file])
    rate = _rate(f"{hub}/{name}/resolve/main/{largest}")
    seconds = sum(missing.values()) / rate
    text = f"{name} from {hub}: {sum(missing.values()) / 1e9:.1f} GB at {rate / 1e6:.1f} MB/s, {_minutes(seconds)}"
    if seconds > _SLOW_DOWNLOAD:
        return Finding("warn", "model", text, mirror.replace("within reach", "nearer to you"))
    return Finding("ok", "model", text)


def _model_info(hub: str, name: str) -> tuple[int, dict[str, Any]]:
    """Return the hub's status for a model, and what it knows of it: the files' names and sizes."""
    from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

    address = f"{hub}/api/models/{name}?blobs=true"
    answer = httpx2.get(address, headers=build_hf_headers(), follow_redirects=True, timeout=_PATIENCE)
    return answer.status_code, answer.json() if answer.status_code == 200 else {}


def _cached(name: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file), str)


def _rate(url: str) -> float:
    """Return the bytes a second at which a file comes, from its beginning."""
    from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

    headers = {**build_hf_headers(), "Range": f"bytes=0-{_SAMPLE_BYTES - 1}"}
    received, begun = 0, time.monotonic()
    with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=_PATIENCE) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            received += len(chunk)
            if received >= _SAMPLE_BYTES or time.monotonic() - begun > _SAMPLE_SECONDS:
                break
    return max(received, 1) / max(time.monotonic() - begun, 1e-6)


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds >= 90 else "about a minute"


async def _asked(config: Config, name: str) -> Finding:
    from aflow_jax.llm import Budget, LLMClient, load_endpoint

    try:
        endpoint = load_endpoint(config.aflow_config_path, name)
        if endpoint.api_type == "local":
            return Finding("ok", "executor", f"{name}: the base model of the run, in its process; no key, no network")
        budget = Budget(**config.budget.model_dump())
        client = LLMClient(endpoint, timeout=_PATIENCE, max_retries=0, budget=budget)
        try:
            begun = time.monotonic()
            await client.check()
            latency = time.monotonic() - begun
        finally:
            await client.aclose()
    except UserError as error:
        problem, mend = _cut(str(error))
        return Finding("FAIL", "executor", problem, mend)
    key = "key accepted" if endpoint.api_key else "no key needed"
    text = f"{name} at {endpoint.address}: {key}, {latency:.2f} s for a short reply"
    if latency > _SLOW_CALL:
        return Finding("warn", "executor", text, "slow: name a nearer endpoint, or raise call_timeout")
    return Finding("ok", "executor", text)


def _cut(message: str) -> tuple[str, str]:
    """Return problem and mend of a UserError, which stand on either side of a semicolon."""
    problem, _, mend = message.rpartition("; ")
    return (problem, mend) if problem else (message, "see aflow_config_path")


def _wandb_finding(base: str, key: str) -> Finding:
    question: dict[str, Any] = {"query": "query Viewer { viewer { username } }"}
    try:
        answer = httpx2.post(f"{base}/graphql", json=question, auth=("api", key), timeout=_PATIENCE)
        viewer = answer.json()["data"]["viewer"] if answer.status_code == 200 else None
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        text = f"{base} cannot be reached ({type(error).__name__})"
        return Finding("warn", "wandb", text, "export WANDB_MODE=offline, and `wandb sync` later")
    if viewer is None:
        text = f"{base} refused the key in WANDB_API_KEY ({answer.status_code})"
        return Finding("warn", "wandb", text, "set it again, or unset it to record offline")
    return Finding("ok", "wandb", f"{base}: key accepted")
