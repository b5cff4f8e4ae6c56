"""The demo bundle, described once for all tests, and a cache that is not the user's."""

from collections.abc import Iterator

import pytest

from diffrhythm import bundle
from diffrhythm.bundle import Bundle


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def demo_bundle(cache: None) -> Bundle:
    return bundle.load("demo")
