"""Repetition of failed requests: which ones may succeed later, how often, and when."""

import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from streamgmm.urls import without_credentials

#: Number of attempts of a request, and the first delay; each delay is twice the one before.
ATTEMPTS = 8
BACK_OFF_SECONDS = 0.5
#: Errors for a path without a file.
NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

_LONGEST_WAIT_SECONDS = 60.0
# Too many requests, or too early, or too slow.
_PASSING = (408, 425, 429)
_NOT_IMPLEMENTED = (501, 505)

_logger = logging.getLogger("streamgmm")


def tries(url: str, reason: Callable[[BaseException | None], str]) -> Retrying:
    """Call a function while it may succeed; the log may show the url and the reason.

    Parameters
    ----------
    url : str
        What is read.
    reason : callable
        Says of an error what went wrong.
    """
    return Retrying(**_policy(url, reason))


def async_tries(url: str, reason: Callable[[BaseException | None], str]) -> AsyncRetrying:
    """Return the same for a coroutine function."""
    return AsyncRetrying(**_policy(url, reason))


def given_up(url: str, reason: str) -> str:
    """Return what to say when the last try failed."""
    return f"{ATTEMPTS} attempts to read {url} failed, the last by {reason}"


def _policy(url: str, reason: Callable[[BaseException | None], str]) -> dict[str, Any]:
    """Return how often and when something is tried again, as tenacity takes it."""

    def log(state: RetryCallState) -> None:
        _logger.warning(
            "%s: attempt %d of %d failed (%s); the next one follows in %.1f s",
            url,
            state.attempt_number,
            ATTEMPTS,
            reason(state.outcome.exception()),  # type: ignore[union-attr]
            state.upcoming_sleep,
        )

    return {
        "retry": retry_if_exception(may_pass),
        "stop": stop_after_attempt(ATTEMPTS),
        "wait": wait_exponential(BACK_OFF_SECONDS, _LONGEST_WAIT_SECONDS)
        + wait_random(0, BACK_OFF_SECONDS),
        "before_sleep": log,
        "reraise": True,
    }


def told(error: BaseException | None) -> str:
    """Return an error without what is not to be shown."""
    cause = causes_of(error)[0]
    return without_credentials(f"{type(cause).__name__}: {cause}")


def may_pass(error: BaseException) -> bool:
    """Return whether a request that failed may succeed if it is made again."""
    causes = causes_of(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return False
    if any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in causes):
        return False
    broken = (TimeoutError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    for cause in causes:
        # This comes before the status, because a truncated answer has a status without meaning.
        if isinstance(cause, broken):
            return True
        status = status_of([cause])
        if status is not None:
            return status in _PASSING or (status >= 500 and status not in _NOT_IMPLEMENTED)
    if isinstance(causes[0], (*NO_FILE, PermissionError)):
        return False
    return any(isinstance(cause, (OSError, EOFError, *broken)) for cause in causes)


def causes_of(error: BaseException | None) -> list[BaseException]:
    """Return an error and what led to it, the last one first.

    By HTTP every failure of a header is reported as a missing file. Such an error is
    skipped if its cause says that the request failed; an archive or a memory that has no such
    file raises it because of a key.
    """
    causes = []
    while error is not None:
        if not (isinstance(error, FileNotFoundError) and _is_of_request(error.__cause__)):
            causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _is_of_request(error: BaseException | None) -> bool:
    """Return whether an error says that a request failed, not that there is no file."""
    of_requests = isinstance(error, (OSError, EOFError, aiohttp.ClientError))
    return of_requests and not isinstance(error, NO_FILE)


def status_of(causes: list[BaseException]) -> int | None:
    """Return what the server answered if that was an error, as HTTP numbers it."""
    for cause in causes:
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            # One by one, because access to several at once is deprecated if others exist.
            names = (name for name in ("status", "status_code", "code") if hasattr(cause, name))
            code = getattr(cause, next(names, ""), None)
        if isinstance(code, int) and 400 <= code < 600:
            return code
    return None
