"""An import that fails with an error whose text cannot be had."""


class Speechless(Exception):
    """As some errors of C extensions and object mappers are, half built."""

    def __str__(self) -> str:
        raise ValueError("no text")


raise Speechless
