"""Fixtures of the adapters' tests."""

import pytest

from tests.adapters.handoff_site import Site, all_idle


@pytest.fixture
def site() -> Site:
    """An empty site for the hand-off."""
    return Site()


@pytest.fixture
async def settled() -> None:
    """No request of an earlier test will be finished from now on."""
    await all_idle()
