"""The exceptions that a user is meant to read, and the words of other libraries' exceptions."""

MOST_CHARACTERS = 300


class UserError(Exception):
    """A mistake that the user must correct: trying again without a change gives the same.

    The message is one line that says what came, what was wanted and how to fix it. The command line prints it without
    a traceback and exits with code 2; every other exception is a defect of ours and keeps its traceback.
    """


class TryAgainError(UserError):
    """Something that may go well when it is tried again, unchanged: a killed process, a host that did not answer.

    Flows retry it as often as `machine.retries` says, alike on one machine and on a cluster. When that did not help,
    its message is printed like that of any other UserError.
    """


class StoreUnavailableError(TryAgainError):
    """The remote store did not answer for long. Nothing is lost; the same call may succeed later."""


def one_line(error: BaseException, most: int = MOST_CHARACTERS) -> str:
    """What an exception of another library says, as one line of at most `most` characters, cut between words.

    Without control characters (some messages bring escape codes); `?` for what is no character (a byte of a name that
    the locale cannot read); the exception's type where it says nothing.
    """
    text = "".join(
        character if character.isprintable() else "?" if "\ud800" <= character <= "\udfff" else " "
        for character in str(error)
    )
    words = " ".join(text.split())
    if not words:
        return type(error).__name__
    if len(words) <= most:
        return words
    return words[: most - 3].rsplit(" ", 1)[0] + "..."
