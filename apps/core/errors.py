"""Named errors of the domains; the API turns them into answers in one place."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from apps.core.texts import Text

__all__ = ["CsrfFailed", "DomainError", "Invalid", "NotAuthenticated", "NotFound"]


class DomainError(Exception):
    """Something that a caller did or met, and may be told.

    A subclass names its `code` (stable, for programs), `status` (HTTP) and `text` (for people, with
    placeholders for the values that it takes).
    """

    code: ClassVar[str]
    status: ClassVar[int] = 400
    text: ClassVar[Text]

    def __init__(
        self, *, fields: Mapping[str, Sequence[str]] | None = None, **values: object
    ) -> None:
        super().__init__(self.code)
        self.fields = dict(fields or {})
        self.values = values

    def __str__(self) -> str:
        return f"{self.code}: {self.message()}"

    def message(self) -> str:
        """Return the sentence in the active language."""
        return self.text.format(**self.values)


class Invalid(DomainError):
    """The request does not have the form that its endpoint wants; `fields` says where."""

    code = "request.invalid"
    status = 422
    text = Text(en="Please check the marked fields.", ko="표시된 항목을 확인해 주세요.")


class NotAuthenticated(DomainError):
    """Nobody is logged in."""

    code = "accounts.not_authenticated"
    status = 401
    text = Text(en="Please log in.", ko="로그인이 필요합니다.")


class CsrfFailed(DomainError):
    """A session cookie came without the token that proves where the request was made."""

    code = "accounts.csrf_failed"
    status = 403
    text = Text(
        en="The request could not be verified. Reload the page and try again.",
        ko="요청을 확인할 수 없습니다. 페이지를 새로 고친 뒤 다시 시도해 주세요.",
    )


class NotFound(DomainError):
    """There is no such thing, or none that the caller may know of."""

    code = "request.not_found"
    status = 404
    text = Text(en="There is nothing here.", ko="찾을 수 없습니다.")
