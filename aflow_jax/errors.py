"""The one error that a user's mistake raises."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the thing, the place and the mend.

    Commands print the message without a traceback and exit with code 2. The message never holds a secret.
    """
