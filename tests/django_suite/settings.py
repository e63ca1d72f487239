"""The settings of Django's own tests, with a runner that records what happened."""

from test_sqlite import *  # noqa: F403 - found in Django's tests/, where runtests.py runs

TEST_RUNNER = "tests.django_suite.runner.Runner"
