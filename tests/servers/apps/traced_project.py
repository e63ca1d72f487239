"""The settings of the product, with the addresses of tests/servers/apps/traced_urls.py."""

from project.settings import *  # noqa: F403 - all of them

ROOT_URLCONF = "traced_urls"
