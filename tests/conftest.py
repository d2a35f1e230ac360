"""Every test runs on four virtual CPU devices, so that sharding is real wherever it appears.

Property tests draw the same examples every time, and take as long as the machine needs.
"""

import gc
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import fsspec
import hypothesis
import jax
import pytest

from tests.compiling import optimised

# What one test compiled, another that compiles the same takes from here; so do the processes that tests start.
COMPILATION_CACHE = Path(tempfile.gettempdir()) / "jax_ddpm_tests"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", str(COMPILATION_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """What was imported stays: to look through it again and again would be a tenth of the tests' time."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What a test compiles mostly runs for less time than it takes to optimise it; if not, the test is marked `optimised`."""
    with optimised(item.get_closest_marker("optimised") is not None):
        return (yield)


@pytest.fixture(scope="module", params=["s3", "gs"])
def storage(request: pytest.FixtureRequest) -> Iterator[tuple[object, str]]:
    """A server of object storage that runs, and the address of its bucket."""
    from tests.object_storage import SERVERS  # which takes seconds, and few tests need it

    with SERVERS[request.param]() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem(request.param).clear_instance_cache()
        yield server, f"{request.param}://bucket"
