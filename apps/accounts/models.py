"""The user: known by an e-mail address, unique whatever its case."""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models.functions import Lower

from apps.core.models import TimestampedModel

__all__ = ["User", "UserManager"]


class UserManager(BaseUserManager["User"]):
    """Makes users, and finds them by e-mail without regard to case."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create an ordinary user; None gives no usable password.

        Raises:
            ValueError: the e-mail is empty.
            django.db.IntegrityError: the e-mail is taken, in any case.
        """
        if not email:
            raise ValueError("A user needs an e-mail address.")
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create a user who may do everything, the admin included."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        """Find the user who logs in with this e-mail.

        Raises:
            User.DoesNotExist: nobody does.
        """
        # The same expression as the constraint's, so that its index is used.
        rows = self.alias(lowered_email=Lower("email"))
        return rows.get(lowered_email=Lower(models.Value(username)))

    async def aget_by_natural_key(self, username: str | None) -> "User":
        """Do the same from a coroutine."""
        rows = self.alias(lowered_email=Lower("email"))
        return await rows.aget(lowered_email=Lower(models.Value(username)))


class User(AbstractBaseUser, PermissionsMixin, TimestampedModel):
    """A person with an account.

    `nickname` is what others see; it is never empty in an answer: see `display_name`.
    """

    # Unique as it is written, too: Django wants to see it on the field that people log in with.
    email = models.EmailField(max_length=254, unique=True)
    nickname = models.CharField(max_length=50, blank=True)
    full_name = models.CharField(max_length=100, blank=True)
    company = models.CharField(max_length=100, blank=True)
    phone = models.CharField(max_length=30, blank=True)
    position = models.CharField(max_length=100, blank=True)
    email_verified = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False, help_text="May enter the admin.")

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                Lower("email"),
                name="accounts_user_email_unique",
                violation_error_message="A user with this e-mail address exists.",
            ),
        ]

    if TYPE_CHECKING:
        id: int

    def __str__(self) -> str:
        return self.email

    @property
    def display_name(self) -> str:
        """The name that others see, never empty."""
        return self.nickname or self.full_name or self.email.partition("@")[0]
