"""The errors that a user can mend without reading code."""


class UserError(ValueError):
    """A mistake in a command line, a config or data.

    The message says what is wrong, where, and what to do. The commands print it without a traceback and exit with
    status 2; every other exception is a defect, and keeps its traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file that does not exist."""


class UnreadableFileError(UserError):
    """A file that was there, and is gone or damaged."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package that is not installed, or does not import."""


class NonFiniteError(UserError):
    """A loss, a gradient or a weight that is NaN or infinite."""
