"""Every test of this folder that asks for `place` runs against every store there is."""

import pytest

from tests.contracts.store_places import PLACES, StorePlace


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest) -> StorePlace:
    return PLACES[request.param](request)
