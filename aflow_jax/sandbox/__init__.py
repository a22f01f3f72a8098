"""Runs programs that nobody vouches for: isolated, bounded in every resource, killed on time."""

from aflow_jax.sandbox.results import ProgramResult, SandboxUnavailable, TestResult
from aflow_jax.sandbox.runs import run_program, run_program_async, run_tests, run_tests_async

__all__ = [
    "ProgramResult",
    "SandboxUnavailable",
    "TestResult",
    "run_program",
    "run_program_async",
    "run_tests",
    "run_tests_async",
]
