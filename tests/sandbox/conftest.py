import pytest

from aflow_jax.errors import UserError
from aflow_jax.sandbox import configure_sandbox


@pytest.fixture(scope="module", params=["namespaces", "bubblewrap", "landlock"])
def backend(request):
    """Each isolating backend that this machine offers."""
    try:
        configure_sandbox(request.param)
    except UserError as error:
        pytest.skip(str(error))
    yield request.param
    configure_sandbox("auto")
