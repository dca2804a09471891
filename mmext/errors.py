"""The error that a user can mend without reading code."""


class UserError(ValueError):
    """A mistake in a command line, a config or data.

    The message says what is wrong, where, and what to do. The commands print it without a traceback and exit with
    status 2; every other exception is a defect, and keeps its traceback.
    """
