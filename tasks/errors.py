"""The one error that users see: what was found, where, and what to do about it."""


class UserError(Exception):
    """Something that the user can mend. Its text is shown as it is, without a traceback.

    Say in at most six lines: the params key or file, what was found there, what to do.
    """


class PassingError(UserError):
    """A UserError that may be gone at the next try, such as a download that broke off."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, 160 characters at most; its class's name if it says nothing."""
    return (str(error).splitlines() or [""])[0][:160] or type(error).__name__
