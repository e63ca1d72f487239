"""Projects over HTTP: list and create, by session."""

import json
from datetime import UTC, date, datetime

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.accounts.models import User
from apps.projects import selectors, services
from apps.projects.errors import DatesReversed, NameTaken
from apps.projects.models import Project

LIST = "/api/projects"
CREATE = ("/api/projects", "/api/projects/", "/api/projects/create", "/api/projects/create/")


def post(client: Client, body: object, *, path: str = "/api/projects/create", **headers: str):
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(path, data=data, content_type="application/json", headers=headers)


def make(owner: User, name: str, **fields: object) -> Project:
    return services.create_project(owner=owner, name=name, **fields)


# --- who ---


@pytest.mark.django_db
@pytest.mark.parametrize("path", CREATE)
def test_the_anonymous_are_told_to_log_in(client: Client, path: str) -> None:
    answer = post(client, {"name": "x"}, path=path)

    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/json"
    assert answer.json() == {
        "code": "accounts.not_authenticated",
        "message": "Please log in.",
        "detail": "Please log in.",
    }
    assert client.get(LIST).status_code == 401
    assert Project.objects.count() == 0


@pytest.mark.django_db
def test_the_anonymous_are_told_so_even_without_a_csrf_token() -> None:
    assert post(Client(enforce_csrf_checks=True), {"name": "x"}).status_code == 401


def test_a_session_that_ended_is_anonymous(browser: Client) -> None:
    browser.session.flush()

    assert browser.get(LIST).status_code == 401


def test_a_user_who_was_deactivated_is_anonymous(browser: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)

    assert browser.get(LIST).status_code == 401


def test_writing_by_session_needs_the_csrf_token(user: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)

    refused = post(browser, {"name": "x"})
    assert (refused.status_code, refused.json()["code"]) == (403, "accounts.csrf_failed")
    assert browser.get(LIST).status_code == 200

    token = "a" * 32
    browser.cookies["csrftoken"] = token
    assert post(browser, {"name": "x"}, **{"x-csrftoken": token}).status_code == 201
    assert post(browser, {"name": "y"}, **{"x-csrftoken": "b" * 32}).status_code == 403


def test_an_owner_sees_only_their_own(browser: Client, user: User, make_user) -> None:
    make(user, "mine")
    make(make_user(), "not mine")

    assert [row["name"] for row in browser.get(LIST).json()["results"]] == ["mine"]


# --- create ---


@pytest.mark.parametrize("path", CREATE)
def test_every_spelling_creates_without_a_redirect(browser: Client, path: str) -> None:
    answer = post(browser, {"name": "spring"}, path=path)

    assert answer.status_code == 201
    assert Project.objects.get().name == "spring"


def test_a_project_comes_back_whole(browser: Client, user: User) -> None:
    answer = post(
        browser,
        {
            "name": "봄 캠페인 🎬 30초",
            "description": "첫 줄\n둘째 줄 👩‍💻",
            "manager": "김민아",
            "consumer": "Café Ünï",
            "color": "#00ff7F",
            "start_date": "2026-03-02",
            "end_date": "2026-04-10",
        },
    )

    assert answer.status_code == 201
    made = answer.json()
    assert isinstance(made.pop("id"), int)
    for moment in ("created_at", "updated_at"):
        assert datetime.fromisoformat(made.pop(moment)).tzinfo is not None
    assert made == {
        "title": "봄 캠페인 🎬 30초",
        "name": "봄 캠페인 🎬 30초",
        "description": "첫 줄\n둘째 줄 👩‍💻",
        "manager": "김민아",
        "consumer": "Café Ünï",
        "status": "planning",
        "progress": 0,
        "color": "#00ff7F",
        "owner": {"id": user.pk, "nickname": "윤슬"},
        "start_date": "2026-03-02",
        "end_date": "2026-04-10",
    }
    assert "봄 캠페인 🎬".encode() in answer.content
    listed = browser.get(LIST).json()["results"]
    assert [row["name"] for row in listed] == ["봄 캠페인 🎬 30초"]


def test_days_are_never_null(browser: Client) -> None:
    made = post(browser, {"name": "x"}).json()

    assert made["start_date"] == made["end_date"]
    assert date.fromisoformat(made["start_date"])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, ("2026-03-02", "2026-03-02")),
        ("2026-05-01", None, ("2026-05-01", "2026-05-01")),
        (None, "2026-05-01", ("2026-03-02", "2026-05-01")),
        (None, "2026-01-01", ("2026-01-01", "2026-01-01")),
    ],
)
def test_days_that_are_left_out_follow_from_today_in_seoul(user, start, end, expected) -> None:
    def late_evening_in_utc() -> datetime:
        return datetime(2026, 3, 1, 23, 30, tzinfo=UTC)

    project = services.create_project(
        owner=user,
        name="x",
        start_date=date.fromisoformat(start) if start else None,
        end_date=date.fromisoformat(end) if end else None,
        clock=late_evening_in_utc,
    )

    assert (project.start_date.isoformat(), project.end_date.isoformat()) == expected


def test_a_name_is_unique_among_the_projects_of_one_owner(
    browser: Client, user: User, make_user
) -> None:
    make(make_user(), "spring")
    assert post(browser, {"name": "spring"}).status_code == 201

    again = post(browser, {"name": " spring "}, **{"accept-language": "ko"})

    assert again.status_code == 409
    assert again.json()["code"] == "projects.name_taken"
    assert again.json()["message"] == "이름이 “spring”인 프로젝트가 이미 있습니다."
    assert again.json()["fields"] == {"name": [again.json()["message"]]}
    assert Project.objects.filter(owner=user).count() == 1


@pytest.mark.django_db
def test_a_name_with_braces_is_no_template(user: User) -> None:
    make(user, "{name} {0} {")

    with pytest.raises(NameTaken) as caught:
        make(user, "{name} {0} {")
    assert "“{name} {0} {”" in caught.value.message()


@pytest.mark.django_db
def test_the_service_refuses_reversed_days(user: User) -> None:
    with pytest.raises(DatesReversed):
        make(user, "x", start_date=date(2026, 2, 2), end_date=date(2026, 2, 1))


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fields",
    [
        {"end_date": date(2026, 1, 1)},
        {"progress": 101},
        {"status": "unheard of"},
        {"name": "taken"},
    ],
)
def test_the_database_holds_the_rules_by_itself(user: User, fields: dict[str, object]) -> None:
    make(user, "taken")
    base = {"name": "x", "start_date": date(2026, 2, 2), "end_date": date(2026, 2, 3)}

    with pytest.raises(IntegrityError), transaction.atomic():
        Project.objects.create(owner=user, **(base | fields))


INVALID = [
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": "   "}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"name": 7}, "name"),
    ({"name": None}, "name"),
    ({"name": "a\x00b"}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "\ud800"}, "name"),
    ({"name": "x", "description": "x" * 10_001}, "description"),
    ({"name": "x", "description": "a\x00b"}, "description"),
    ({"name": "x", "color": "red"}, "color"),
    ({"name": "x", "color": "#12345g"}, "color"),
    ({"name": "x", "color": "#123456\n"}, "color"),
    ({"name": "x", "start_date": "soon"}, "start_date"),
    ({"name": "x", "start_date": "2026-02-30"}, "start_date"),
    ({"name": "x", "start_date": "2026-02-03T10:00:00Z"}, "start_date"),
    ({"name": "x", "start_date": "2026-02-03", "end_date": "2026-02-02"}, "end_date"),
    ({"name": "x", "owner": 1}, "owner"),
    ({"name": "x", "progress": 50}, "progress"),
]


@pytest.mark.parametrize(("body", "field"), INVALID, ids=lambda value: ascii(value)[:40])
def test_a_wrong_field_is_named(browser: Client, body: dict[str, object], field: str) -> None:
    answer = post(browser, body)

    assert answer.status_code == 422
    assert answer.json()["message"] == answer.json()["detail"]
    assert list(answer.json()["fields"]) == [field]
    assert all(answer.json()["fields"][field])
    assert Project.objects.count() == 0


def test_what_is_wrong_is_said_in_the_readers_language(browser: Client) -> None:
    for language, message, field in (
        ("ko", "표시된 항목을 확인해 주세요.", "필수 항목입니다."),
        ("en", "Please check the marked fields.", "This is needed."),
        ("fr", "Please check the marked fields.", "This is needed."),
    ):
        answer = post(browser, {}, **{"accept-language": language}).json()
        assert (answer["code"], answer["message"]) == ("request.invalid", message)
        assert answer["fields"] == {"name": [field]}


@pytest.mark.parametrize(
    "body", ["{", "[" * 100_000, '{"name": NaNN}', b"\xff\xfe", '{"name": ' + "9" * 5000 + "}"]
)
def test_a_body_that_is_no_json_is_malformed(browser: Client, body: str | bytes) -> None:
    answer = post(browser, body)

    assert (answer.status_code, answer.json()["code"]) == (400, "request.malformed")


@pytest.mark.parametrize("body", ["", "[]", "7", '"text"', "null", "[1]"])
def test_a_body_that_is_no_object_is_invalid(browser: Client, body: str) -> None:
    answer = post(browser, body)

    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


def test_a_huge_body_is_refused(browser: Client) -> None:
    answer = post(browser, json.dumps({"name": "x", "description": "x" * 3_000_000}))

    assert answer.status_code in {400, 413}
    assert Project.objects.count() == 0


# --- list ---


def test_a_list_is_a_page_object(browser: Client, user: User) -> None:
    for number in range(5):
        make(user, f"project {number}")

    first = browser.get(LIST, {"page_size": 2, "search": "project"}).json()
    second = browser.get(first["next"]).json()
    last = browser.get(second["next"]).json()

    assert (first["count"], first["previous"]) == (5, None)
    assert first["next"].startswith("http://testserver/api/projects?")
    assert [len(page["results"]) for page in (first, second, last)] == [2, 2, 1]
    assert last["next"] is None
    assert browser.get(last["previous"]).json() == second
    names = [row["name"] for page in (first, second, last) for row in page["results"]]
    assert names == [f"project {number}" for number in (4, 3, 2, 1, 0)]


def test_an_empty_list_is_one_empty_page(browser: Client) -> None:
    assert browser.get(LIST).json() == {"count": 0, "next": None, "previous": None, "results": []}


def test_a_page_beyond_the_end_is_empty_and_leads_back(browser: Client, user: User) -> None:
    make(user, "only")

    page = browser.get(LIST, {"page": 1_000_000}).json()

    assert (page["count"], page["next"], page["results"]) == (1, None, [])
    assert len(browser.get(page["previous"]).json()["results"]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", "0"), ("page", "-1"), ("page", "x"), ("page", "1000001"), ("page", "9" * 40),
        ("page_size", "0"), ("page_size", "101"), ("page_size", ""), ("ordering", "owner__email"),
        ("ordering", "password"), ("status", "unheard of"), ("search", "a\x00b"),
        ("search", "x" * 201),
    ],
)  # fmt: skip
def test_a_parameter_out_of_bounds_is_named(browser: Client, name: str, value: str) -> None:
    answer = browser.get(LIST, {name: value})

    assert answer.status_code == 422
    assert list(answer.json()["fields"]) == [name]


def test_search_and_status_narrow_the_list(browser: Client, user: User) -> None:
    make(user, "봄 캠페인")
    make(user, "Autumn", description="캠페인 둘")
    make(user, "100%")
    Project.objects.filter(name="Autumn").update(status=Project.Status.REVIEW)

    def names(**query: str) -> list[str]:
        found = browser.get(LIST, {"ordering": "name", **query}).json()["results"]
        return [row["name"] for row in found]

    assert names(search="캠페인") == ["Autumn", "봄 캠페인"]
    assert names(search="AUTUMN") == ["Autumn"]
    assert names(search="%") == ["100%"]
    assert names(status="review") == ["Autumn"]
    assert names(status="review", search="봄") == []


@pytest.mark.django_db
@pytest.mark.parametrize("ordering", selectors.Ordering.__args__)
def test_every_ordering_is_total(user: User, ordering: str) -> None:
    made = [make(user, name).pk for name in ("b", "a", "c")]
    moment = datetime(2026, 3, 2, tzinfo=UTC)
    Project.objects.update(created_at=moment, updated_at=moment)

    rows = [row.pk for row in selectors.list_projects(owner=user, ordering=ordering)]

    by_name = {"name": [made[1], made[0], made[2]], "-name": [made[2], made[0], made[1]]}
    assert rows == by_name.get(ordering, made[::-1])  # ties: the newest first


def test_a_page_costs_the_same_queries_for_ten_rows_and_a_hundred(
    browser: Client, user: User
) -> None:
    def queries(size: int) -> int:
        with CaptureQueriesContext(connection) as captured:
            answer = browser.get(LIST, {"page_size": size})
        assert len(answer.json()["results"]) == size
        return len(captured)

    for number in range(100):
        make(user, f"project {number}")

    # session, user, count, rows
    assert queries(10) == queries(100) == 4


def test_creating_costs_few_queries(browser: Client) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert post(browser, {"name": "x"}).status_code == 201

    # session, user, savepoint, insert, release
    assert len(captured) == 5


# --- admin ---


def test_the_admin_lists_searches_and_edits_projects(user: User) -> None:
    project = make(user, "봄 캠페인")
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com"))

    assert "봄 캠페인" in client.get("/admin/projects/project/?q=캠페인").content.decode()
    assert client.get(f"/admin/projects/project/{project.pk}/change/").status_code == 200
    assert client.get("/admin/projects/project/add/").status_code == 200
