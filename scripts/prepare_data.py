"""Make the training and the test file from what download_datasets.py fetched: clean, checked, in the exact mix.

    python scripts/prepare_data.py                                   # data/raw → data/ready_to_train
    python scripts/prepare_data.py --train 2000 --test 200 --ratios math=.5 code=.25 qa=.25
    python scripts/prepare_data.py --raw none --train-file mine.jsonl --test-file mine_test.jsonl

Rows are converted, one function a source; code rows whose own answer fails their tests are left out; the test file is
drawn first, and no training problem equals or nearly equals another, or any problem of a published test split. What a
domain's sources hold too few of comes from the project's generator (--no-fill: it stays short). Beside the two files
lies DATASHEET.md: sources, commits, licences, counts, what was removed and why, checksums. A second run with the same
input and settings finds its work done; one that was stopped goes on with the references checked so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from download_datasets import PUBLISHED, digest, is_complete
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aflow_jax.errors import UserError
from aflow_jax.problems import (
    DOMAINS,
    Mixture,
    Problem,
    default_sources,
    draw_mixture,
    generate_problems,
    load_problems,
    published_row,
    save_problems,
)
from aflow_jax.problems.dataset import problem_from_row, read_rows
from aflow_jax.references import default_cache, unsound_problems

# More malformed rows than this in a source mean that its format has changed.
MOST_MALFORMED = 0.01
SPLITS = ("train", "test")
_CHUNK = 256


@dataclass
class Pools:
    """What there is to draw from, and what was refused on the way.

    Attributes:
        problems: split → problems.
        rows: (source, split) → how many rows were read.
        refused: (source, split, reason) → how many were left out.
        files: every file read → its SHA-256.
    """

    problems: dict[str, list[Problem]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    # A line stays one, however long the path in it.
    say = partial(Console(stderr=True, highlight=False).print, soft_wrap=True)
    try:
        prepare(options, say)
    except UserError as error:
        say(f"error: {error}", markup=False)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", default="data/raw", help="where download_datasets.py wrote; none: nothing of it")
    parser.add_argument("--train-file", action="append", default=[], metavar="FILE", help="a file of problems to add")
    parser.add_argument("--test-file", action="append", default=[], metavar="FILE", help="the same, held out")
    parser.add_argument("--out", type=Path, default=Path("data/ready_to_train"))
    parser.add_argument("--train", type=int, default=10_000, help="training problems (default 10000)")
    parser.add_argument("--test", type=int, default=500, help="held-out problems (default 500)")
    parser.add_argument("--ratios", nargs="+", default=["math=.333", "code=.333", "qa=.334"], metavar="DOMAIN=SHARE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-fill", action="store_true", help="leave a domain short rather than generate problems")
    return parser


def prepare(options: argparse.Namespace, say) -> None:
    """Do the command's work; raises UserError."""
    ratios = _ratios(options.ratios)
    if min(options.train, options.test) < 1:
        raise UserError(f"--train {options.train} --test {options.test}: use 1 or more of each")
    names = {"train": f"train_{_short(options.train)}_final.jsonl", "test": f"test_{options.test}_preprocessed.jsonl"}
    inputs = _inputs(options)
    order = {name: value for name, value in vars(options).items() if name != "out"}
    recipe = {"settings": order, "files": {str(path): digest(path) for _, _, path in inputs}}
    if _is_done(options.out, recipe):
        say(f"{options.out}: up to date")
        return
    pools = read_pools(inputs)
    pools.files = recipe["files"]
    check_references(pools, say)
    drawn = draw(pools, options, ratios, say)
    options.out.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for split in SPLITS:
        path = options.out / names[split]
        save_problems(path.with_suffix(".partial"), drawn[split].problems)
        path.with_suffix(".partial").replace(path)
        load_problems(path)
        checksums[path.name] = digest(path)
        say(f"{path}: {len(drawn[split].problems)} problems, sha256 {checksums[path.name]}")
    (options.out / "DATASHEET.md").write_text(datasheet(pools, drawn, checksums, options), encoding="utf-8")
    manifest = {"recipe": recipe, "checksums": checksums}
    (options.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    say(f"{options.out / 'DATASHEET.md'}: sources, licences, counts, what was removed")


def _is_done(folder: Path, recipe: dict) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        made = {name: digest(folder / name) for name in manifest["checksums"]}
        return manifest["recipe"] == json.loads(json.dumps(recipe)) and made == manifest["checksums"]
    except (OSError, ValueError, KeyError):
        return False


def _inputs(options: argparse.Namespace) -> list[tuple[str | None, str, Path]]:
    """Return (published source or None, our split, file) for everything to read."""
    inputs: list[tuple[str | None, str, Path]] = []
    for name, source in PUBLISHED.items() if options.raw != "none" else ():
        for split, published in source.split.items():
            path = Path(options.raw) / name / f"{published}.jsonl"
            if not is_complete(source, path):
                raise UserError(f"{path}: not there as downloaded: run python scripts/download_datasets.py {name}")
            inputs.append((name, split, path))
    inputs += [(None, "train", Path(file)) for file in options.train_file]
    inputs += [(None, "test", Path(file)) for file in options.test_file]
    for _, _, path in inputs:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    return inputs


def read_pools(inputs: Iterable[tuple[str | None, str, Path]]) -> Pools:
    """Convert every row. A file of problems is read as strictly as training reads it.

    A published row that is malformed is left out and counted; where more than MOST_MALFORMED of a file are, raises
    UserError with the first one's file, line and reason.
    """
    pools = Pools()
    for source, split, path in track(list(inputs), "reading", console=Console(stderr=True)):
        if source is None:
            problems = load_problems(path)
            pools.rows.update((problem.source, split) for problem in problems)
            pools.problems[split].extend(problems)
            continue
        rows, refusals = read_rows(path), []
        pools.rows[source, split] += len(rows)
        for number, row in rows:
            try:
                ours = published_row(source, row, split=path.stem, index=number - 1)
                pools.problems[split].append(problem_from_row(ours, default_sources(), default_id=ours["id"]))
            except UserError as error:
                refusals.append(f"{path}:{number}: {error}")
                pools.refused[source, split, "malformed"] += 1
        if len(refusals) > MOST_MALFORMED * len(rows):
            raise UserError(f"{refusals[0]} (and {len(refusals) - 1} more rows of {len(rows)} are malformed)")
    return pools


def check_references(pools: Pools, say) -> None:
    """Take out the code problems whose own answers fail; verdicts are kept as they come."""
    for split in SPLITS:
        code = [problem for problem in pools.problems[split] if problem.domain == "code" and problem.test]
        unsound: set[int] = set()
        for start in track(range(0, len(code), _CHUNK), f"references, {split}", console=Console(stderr=True)):
            for one in asyncio.run(unsound_problems(code[start : start + _CHUNK], default_cache())):
                unsound.add(id(one.problem))
                pools.refused[one.problem.source, split, "own answer fails"] += 1
                say(f"left out: {one.problem.id}: {one.reason}", markup=False)
        pools.problems[split] = [problem for problem in pools.problems[split] if id(problem) not in unsound]


def draw(pools: Pools, options: argparse.Namespace, ratios: dict[str, float], say) -> dict[str, Mixture]:
    """Draw the test split, then the training split, which repeats no problem of any test pool."""
    drawn = {}
    held = pools.problems["test"]
    for split, total in (("test", options.test), ("train", options.train)):
        say(f"drawing {total} problems for the {split} split from {len(pools.problems[split])}")
        drawn[split] = draw_mixture(
            pools.problems[split],
            total,
            ratios,
            options.seed,
            held_out=held if split == "train" else (),
            fill=None if options.no_fill else partial(_generated, split=split),
        )
        for domain, missing in drawn[split].short.items():
            say(f"the {split} split is {missing} {domain} problems short of its share")
        held = [*held, *drawn[split].problems]
    return drawn


def _generated(domain: str, split: str) -> Iterator[Problem]:
    """Yield the problems that the generator has of a domain, made only as they are asked for."""
    made, size = 0, 64
    while True:
        try:
            problems = generate_problems(domain, size, 0, split)
        except UserError:  # the templates hold no more
            return
        yield from problems[made:]
        made, size = size, 2 * size


def datasheet(pools: Pools, drawn: dict[str, Mixture], checksums: dict[str, str], options: argparse.Namespace) -> str:
    """Return the datasheet as Markdown."""
    taken = {split: Counter(problem.source for problem in drawn[split].problems) for split in SPLITS}
    removed = Counter(pools.refused)
    for split in SPLITS:
        removed.update({(source, split, reason): n for (source, reason), n in drawn[split].removed.items()})
    short = [f"{split}: {n} {domain}" for split in SPLITS for domain, n in drawn[split].short.items()]
    sources = []
    for name, source in default_sources().items():
        counts = [f"{pools.rows[name, split]} → {taken[split][name]}" for split in SPLITS]
        if set(counts) == {"0 → 0"}:
            continue
        hub, own = source.hub, name.startswith("synthetic")
        origin = f"{hub.repository} at {hub.revision[:12]}" if hub else "the project's generator" if own else "a file"
        sources.append([name, source.domain, origin, hub.licence if hub else "MIT" if own else "", *counts])
    files = [[name, taken[name.partition("_")[0]].total(), checksum] for name, checksum in checksums.items()]
    return "\n".join(
        [
            "# Datasheet",
            "",
            f"Made by scripts/prepare_data.py, seed {options.seed}, shares {' '.join(options.ratios)}.",
            "",
            *_table(["file", "problems", "sha256"], files),
            "Rows read → drawn, by source:",
            "",
            *_table(["source", "domain", "from", "licence", "train", "test"], sources),
            "Left out, of the rows read or met while drawing:",
            "",
            *_table(["source", "split", "reason", "rows"], [[*key, n] for key, n in sorted(removed.items())]),
            f"Short of the share wanted: {', '.join(short) or 'nothing'}.",
            "",
            "Read:",
            "",
            *_table(["file", "sha256"], [[path, checksum] for path, checksum in pools.files.items()]),
        ]
    )


def _table(head: list[str], rows: list[list]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


def _ratios(pairs: list[str]) -> dict[str, float]:
    ratios = {}
    for pair in pairs:
        domain, _, share = pair.partition("=")
        try:
            ratios[domain] = float(share)
        except ValueError:
            raise UserError(f"--ratios {pair}: use DOMAIN=SHARE, as in math=.5") from None
        if domain not in DOMAINS or not 0 <= ratios[domain] < float("inf"):
            raise UserError(f"--ratios {pair}: use a domain of {', '.join(DOMAINS)} and a share of 0 or more")
    if not any(ratios.values()):
        raise UserError("--ratios: give at least one domain a share above 0")
    return ratios


def _short(count: int) -> str:
    return f"{count // 1000}k" if count and count % 1000 == 0 else str(count)


if __name__ == "__main__":
    sys.exit(main())
