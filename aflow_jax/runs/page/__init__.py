"""One HTML page that shows a run: its curves, workflows, outcomes, evaluations and every rollout."""

from aflow_jax.runs.page.contents import RunContents
from aflow_jax.runs.page.live import live_app
from aflow_jax.runs.page.saved import SavedPage, save_page

__all__ = ["RunContents", "SavedPage", "live_app", "save_page"]
