"""The one error that the command reports as a sentence instead of a traceback."""


class ServiceError(Exception):
    """A service cannot be brought up; the text says what was seen and what to do."""
