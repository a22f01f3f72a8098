"""Runs programs that nobody vouches for: isolated, bounded in every resource, killed on time."""

from aflow_jax.sandbox.backends import SandboxReport
from aflow_jax.sandbox.pool import configure_sandbox, sandbox_report
from aflow_jax.sandbox.results import ProgramResult, SandboxUnavailable, TestResult
from aflow_jax.sandbox.runs import run_program, run_program_async, run_tests, run_tests_async

__all__ = [
    "ProgramResult",
    "SandboxReport",
    "SandboxUnavailable",
    "TestResult",
    "configure_sandbox",
    "run_program",
    "run_program_async",
    "run_tests",
    "run_tests_async",
    "sandbox_report",
]
