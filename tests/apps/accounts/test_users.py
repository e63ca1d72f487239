"""Users: an e-mail address is unique whatever its case, and logs in whatever its case."""

import io

import pytest
from django.contrib.auth import aauthenticate, authenticate
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client

from apps.accounts.models import User

PASSWORD = "correct horse battery"


@pytest.mark.django_db
def test_a_user_is_made_with_an_email_and_a_hashed_password() -> None:
    user = User.objects.create_user("Mina@Example.COM", PASSWORD)

    assert user.email == "Mina@example.com"
    assert user.check_password(PASSWORD)
    assert PASSWORD not in user.password
    assert (user.is_active, user.is_staff, user.is_superuser) == (True, False, False)
    assert user.created_at.tzinfo is not None


@pytest.mark.django_db
def test_a_user_without_password_cannot_log_in() -> None:
    user = User.objects.create_user("mina@example.com")

    assert not user.has_usable_password()
    assert authenticate(username="mina@example.com", password="") is None


@pytest.mark.django_db
def test_a_user_needs_an_email() -> None:
    with pytest.raises(ValueError, match="e-mail"):
        User.objects.create_user("")


@pytest.mark.django_db
@pytest.mark.parametrize("second", ["mina@example.com", "MINA@example.com", "Mina@EXAMPLE.com"])
def test_the_database_refuses_the_same_email_in_another_case(second: str) -> None:
    User.objects.create_user("mina@example.com")

    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email=second)])

    with pytest.raises(ValidationError, match="exists"):
        User(email=second, password="!").full_clean()


@pytest.mark.django_db(transaction=True)
async def test_logging_in_ignores_the_case_of_the_email() -> None:
    user = await User.objects.acreate(email="Mina.Kim@example.com")
    user.set_password(PASSWORD)
    await user.asave()

    assert await User.objects.aget_by_natural_key("mina.KIM@EXAMPLE.com") == user
    assert await aauthenticate(username="MINA.KIM@example.com", password=PASSWORD) == user
    assert await aauthenticate(username="MINA.KIM@example.com", password="wrong") is None


@pytest.mark.django_db
def test_finding_by_email_uses_the_index_of_the_constraint(django_assert_num_queries) -> None:
    with django_assert_num_queries(1) as queries, pytest.raises(User.DoesNotExist):
        User.objects.get_by_natural_key("nobody@example.com")

    assert "LOWER" in queries[0]["sql"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"nickname": "민아", "full_name": "김민아"}, "민아"),
        ({"full_name": "김민아"}, "김민아"),
        ({}, "mina"),
    ],
)
def test_the_name_that_others_see_is_never_empty(fields: dict[str, str], name: str) -> None:
    assert User.objects.create_user("mina@example.com", **fields).display_name == name


@pytest.mark.django_db
def test_createsuperuser_works_by_email(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)

    call_command("createsuperuser", "--noinput", email="root@example.com", stdout=io.StringIO())

    admin = User.objects.get_by_natural_key("root@example.com")
    assert (admin.is_staff, admin.is_superuser) == (True, True)
    with pytest.raises(CommandError, match="already taken"):
        call_command("createsuperuser", "--noinput", email="ROOT@example.com")


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", PASSWORD))
    return client


def test_the_admin_logs_in_by_email(db: None) -> None:
    User.objects.create_superuser("root@example.com", PASSWORD)
    client = Client()

    answer = client.post(
        "/admin/login/", {"username": "Root@Example.com", "password": PASSWORD, "next": "/admin/"}
    )

    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    assert "root@example.com" in client.get("/admin/").content.decode()


def test_the_admin_creates_lists_and_edits_users(admin: Client) -> None:
    made = admin.post(
        "/admin/accounts/user/add/",
        {"email": "new@example.com", "usable_password": "true", "password1": PASSWORD,
         "password2": PASSWORD},
    )  # fmt: skip
    user = User.objects.get_by_natural_key("new@example.com")

    assert (made.status_code, made["Location"]) == (302, f"/admin/accounts/user/{user.pk}/change/")
    assert user.check_password(PASSWORD)
    assert "new@example.com" in admin.get("/admin/accounts/user/?q=new").content.decode()
    assert admin.get(f"/admin/accounts/user/{user.pk}/change/").status_code == 200
    assert admin.get(f"/admin/accounts/user/{user.pk}/password/").status_code == 200


def test_the_admin_says_that_an_email_is_taken(admin: Client) -> None:
    answer = admin.post(
        "/admin/accounts/user/add/",
        {"email": "ROOT@example.com", "usable_password": "true", "password1": PASSWORD,
         "password2": PASSWORD},
    )  # fmt: skip

    assert answer.status_code == 200
    assert "A user with this e-mail address exists." in answer.content.decode()
    assert User.objects.count() == 1
