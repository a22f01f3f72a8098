"""The operators, by the names that workflows use. Every `Operator` in a file of this folder is one of them."""

from __future__ import annotations

import importlib
import pkgutil

from aflow_jax.workflow.operators.base import Operator, Step

__all__ = ["OPERATORS", "Operator", "Step"]


def _found() -> dict[str, Operator]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    own = {kind for kind in kinds if issubclass(kind, Operator) and kind is not Operator}
    return {kind.name: kind() for kind in sorted(own, key=lambda kind: kind.name)}


OPERATORS: dict[str, Operator] = _found()
