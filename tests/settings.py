"""The settings of the tests: those of the product, read from an environment of their own.

What the developer's shell and `.env` say changes nothing here, nor in the servers that tests start.
"""

import os

from project.env.variables import VARIABLES

for _variable in VARIABLES:
    for _name in (_variable.name, *_variable.aliases):
        os.environ.pop(_name, None)
os.environ.update(
    ENV_FILE=os.devnull,
    SECRET_KEY="only-for-tests-3kPq8vXw2nRb7tYc5mZd9hLf4jGs6aQe1uWi0oTz",
    ALLOWED_HOSTS="videoplanet.example",
    HTTPS_ONLY="0",
    HEALTH_TOKEN="a-token-of-the-tests-with-enough-characters",
)

from project.settings import *  # noqa: E402, F403 - after the environment is set

# Fast and weak: argon2 has a test of its own.
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.MD5PasswordHasher",
    "django.contrib.auth.hashers.Argon2PasswordHasher",
]
