"""One Prefect server for all flow tests, and none for any other."""

import pytest


@pytest.fixture(scope="session")
def prefect():
    """Run flows against one temporary server and database."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
