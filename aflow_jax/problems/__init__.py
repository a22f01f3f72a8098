"""Where problems come from: JSONL files, the table of sources, the project's own generator, and batches of them."""

from aflow_jax.problems.dataset import load_problems, save_problems
from aflow_jax.problems.overlap import NearDuplicates, content_hash, decontaminate
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.schedule import BatchSchedule
from aflow_jax.problems.sources import DOMAINS, DatasetType, Source, Sources, default_sources
from aflow_jax.problems.synthetic import generate_problems

__all__ = [
    "DOMAINS",
    "BatchSchedule",
    "DatasetType",
    "NearDuplicates",
    "Problem",
    "Source",
    "Sources",
    "content_hash",
    "decontaminate",
    "default_sources",
    "generate_problems",
    "load_problems",
    "save_problems",
]
