"""The HTTP server: OpenAI's protocol over the sampling driver."""

from aflow_jax.serving.app import create_app
from aflow_jax.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
