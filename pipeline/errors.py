"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what came, what was wanted and the way out. The command line prints it
    without a traceback and exits with code 2; every other exception is a defect of ours and keeps its traceback.
    """


class StoreUnavailableError(UserError):
    """The remote store did not answer for long. Nothing is lost; the same call may succeed later."""
