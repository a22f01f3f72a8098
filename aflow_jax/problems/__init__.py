"""Where problems come from: JSONL files, the table of sources, the project's own generator, and batches of them."""

from aflow_jax.problems.dataset import load_problems, save_problems
from aflow_jax.problems.grading import describe_grading, gold_answers, grading_of, parse_options
from aflow_jax.problems.mixture import Mixture, apportion, draw_mixture
from aflow_jax.problems.overlap import NearDuplicates, content_hash, decontaminate
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.published import published_row
from aflow_jax.problems.schedule import BatchSchedule
from aflow_jax.problems.sources import DOMAINS, DatasetType, Grading, Source, Sources, default_sources
from aflow_jax.problems.synthetic import generate_problems

__all__ = [
    "DOMAINS",
    "BatchSchedule",
    "DatasetType",
    "Grading",
    "Mixture",
    "NearDuplicates",
    "Problem",
    "Source",
    "Sources",
    "apportion",
    "content_hash",
    "decontaminate",
    "default_sources",
    "describe_grading",
    "draw_mixture",
    "generate_problems",
    "gold_answers",
    "grading_of",
    "load_problems",
    "parse_options",
    "published_row",
    "save_problems",
]
