"""People, and browsers in which they are logged in."""

from collections.abc import Callable
from itertools import count

import pytest
from django.test import Client

from apps.accounts.models import User

MakeUser = Callable[..., User]


@pytest.fixture
def make_user(db: None) -> MakeUser:
    """Create a user; every one has an e-mail address of their own."""
    numbers = count(1)

    def make(**fields: object) -> User:
        fields.setdefault("email", f"person{next(numbers)}@videoplanet.example")
        return User.objects.create_user(**fields)

    return make


@pytest.fixture
def user(make_user: MakeUser) -> User:
    return make_user(nickname="윤슬")


@pytest.fixture
def browser(user: User) -> Client:
    """A client in which `user` is logged in."""
    client = Client()
    client.force_login(user)
    return client
