"""Sentences for people, in every language that the product speaks, side by side."""

from dataclasses import dataclass

from django.utils.translation import get_language

__all__ = ["Text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One sentence in English and Korean; `str` gives the one of the active language.

    Placeholders are those of `str.format`, the same in each language.
    """

    en: str
    ko: str

    def __str__(self) -> str:
        return self.ko if (get_language() or "").startswith("ko") else self.en

    def format(self, **values: object) -> str:
        """Return the sentence of the active language with its placeholders filled."""
        return str(self).format(**values)
