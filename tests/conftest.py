"""How the tests run: which Hypothesis profile, and the seed to run them again."""

import os
import random

import hypothesis
import pytest

# the same examples every time, and few enough for every build
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=60, deadline=None, print_blob=True)
# new examples every time; a failure prints how to see it again
hypothesis.settings.register_profile("dev", max_examples=100, deadline=None, print_blob=True)
# for a long search
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None, print_blob=True)

PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
SEED = int(
    os.environ.get("BULKHEAD_SEED") or (1 if PROFILE == "ci" else random.SystemRandom().randrange(1 << 32))
)


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile; `--hypothesis-seed` still wins."""
    hypothesis.settings.load_profile(PROFILE)
    if PROFILE != "ci" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    """Print what is needed to run the same tests again."""
    return f"bulkhead: HYPOTHESIS_PROFILE={PROFILE} BULKHEAD_SEED={SEED}"


@pytest.fixture
def rng() -> random.Random:
    """A generator seeded with the seed in the header."""
    return random.Random(SEED)
