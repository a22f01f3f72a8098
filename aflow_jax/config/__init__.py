"""Every setting, typed and checked before anything is loaded.

A YAML file, then `key=value` overrides (dots reach into sections). Unknown keys and values out of range raise
UserError with one line that names the file, the key and the mend. Settings never hold secrets: API keys come from
the environment.
"""

from aflow_jax.config.loading import load_config
from aflow_jax.config.settings import Config

__all__ = ["Config", "load_config"]
