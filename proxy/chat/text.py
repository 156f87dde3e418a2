"""Text as it may be kept: what PostgreSQL takes, up to a bound."""

MAX_TEXT = 128 * 1024
MAX_TITLE = 80
_CUT = "…"


def clean(text: str) -> str:
    """`text` without what no text column takes: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def title_of(text: str) -> str:
    """One line of at most MAX_TITLE characters; "New Chat" if there is nothing to say."""
    line = " ".join(text[: 10 * MAX_TITLE].split())
    return (line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + _CUT) or "New Chat"
