"""Download the published datasets, each at the commit that configs/datasets.yaml names, with Hugging Face `datasets`.

    pip install "aflow-jax[data]"
    python scripts/download_datasets.py                              # all nine, 1 to 2 GB
    python scripts/download_datasets.py gsm8k mbpp --folder data/raw
    HF_ENDPOINT=https://a.mirror python scripts/download_datasets.py # another hub

Writes FOLDER/<source>/<split>.jsonl, one row a line as `datasets` gives it, and beside it <split>.json: the commit, the
number of rows and the file's SHA-256. What is there and complete is not downloaded again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.errors import UserError
from aflow_jax.problems import Source, default_sources

PUBLISHED = {name: source for name, source in default_sources().items() if source.hub}
Rows = Iterable[Mapping[str, Any]]
Load = Callable[[Source, str, str], Rows]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 where a dataset cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=f"default: {' '.join(PUBLISHED)}")
    parser.add_argument("--folder", type=Path, default=Path("data/raw"))
    options = parser.parse_args(arguments)
    try:
        for number, name in enumerate(options.sources or PUBLISHED, start=1):
            if name not in PUBLISHED:
                raise UserError(f"unknown source {name!r}: use some of {', '.join(PUBLISHED)}")
            source = PUBLISHED[name]
            for split in dict.fromkeys(source.split.values()):
                print(f"[{number}/{len(options.sources or PUBLISHED)}] {name} {split}: ", end="", flush=True)
                print(download(source, split, options.folder, load_from_hub))
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    return 0


def download(source: Source, split: str, folder: Path, load: Load) -> str:
    """Write a split's file and its receipt, unless both are there and agree; return what was done, in words."""
    path = folder / source.name / f"{split}.jsonl"
    receipt = path.with_suffix(".json")
    if is_complete(source, path):
        return f"there already, {json.loads(receipt.read_text())['rows']} rows"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    count = 0
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for configuration in source.hub.configurations:
            for row in load(source, configuration, split):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    partial.replace(path)
    facts = {
        "repository": source.hub.repository,
        "revision": source.hub.revision,
        "rows": count,
        "sha256": digest(path),
    }
    receipt.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return f"{count} rows"


def is_complete(source: Source, path: Path) -> bool:
    """Return whether the file is that of the source's commit, unaltered."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return facts["revision"] == source.hub.revision and facts["sha256"] == digest(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_from_hub(source: Source, configuration: str, split: str) -> Rows:
    """Return the rows of one configuration's split; `datasets` shows the progress and keeps what it downloaded.

    Raises:
        UserError: `datasets` is not installed, or the hub cannot be reached or has no such split.
    """
    try:
        import datasets
    except ImportError:
        raise UserError('datasets is not installed: pip install "aflow-jax[data]"') from None
    try:
        return datasets.load_dataset(source.hub.repository, configuration, split=split, revision=source.hub.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"{source.hub.repository} ({configuration}, {split}) cannot be downloaded: {reason}; set HF_ENDPOINT to a "
            "mirror where the hub is out of reach, and run the command again to go on"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
