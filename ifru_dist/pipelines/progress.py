"""Plain progress lines of a job."""


def say(message: str) -> None:
    """Print a line at once, also when the output is a log file."""
    print(message, flush=True)
