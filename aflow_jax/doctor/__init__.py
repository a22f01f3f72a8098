"""What works on this machine and for these settings, and what to do about what does not."""

from aflow_jax.doctor.cards import Gpu, find_gpus, preset_for
from aflow_jax.doctor.findings import Check, Finding, Subject, examine

__all__ = ["Check", "Finding", "Gpu", "Subject", "examine", "find_gpus", "preset_for"]
