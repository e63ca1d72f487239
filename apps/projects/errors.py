"""What can go wrong with projects."""

from apps.core.errors import DomainError
from apps.core.texts import Text

__all__ = ["DatesReversed", "NameTaken"]


class NameTaken(DomainError):
    """The owner has a project of this name already."""

    code = "projects.name_taken"
    status = 409
    text = Text(
        en="You already have a project named “{name}”.",
        ko="이름이 “{name}”인 프로젝트가 이미 있습니다.",
    )

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name)
        self.fields = {"name": [self.message()]}


class DatesReversed(DomainError):
    """The end lies before the start."""

    code = "projects.dates_reversed"
    status = 422
    text = Text(en="The end date lies before the start date.", ko="종료일이 시작일보다 빠릅니다.")

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"end_date": [self.message()]}
