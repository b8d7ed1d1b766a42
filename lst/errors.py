"""Errors meant for the person at the keyboard: what is wrong, where, and what to do, in one sentence or two."""


class LstError(Exception):
    """Something failed that the user can act on. The command line prints it in one line and exits with 1.

    `message` says what is wrong and where (file, row, key); `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling on their own, and worker processes raise these.
        return (_rebuild, (type(self), self.message, self.hint))


class UsageError(LstError):
    """The command was called wrongly. Exits with 2."""

    exit_code = 2


def _rebuild(kind: type[LstError], message: str, hint: str) -> LstError:
    return kind(message, hint=hint)
