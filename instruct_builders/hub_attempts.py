"""A request to the Hub, tried again while the Hub is busy or the connection breaks; and what a refusal means."""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from .errors import PublishError

logger = logging.getLogger(__name__)

RETRIED = (408, 409, 412, 425, 429, 500, 502, 503, 504)  # HTTP status: another try may succeed
MAX_WAIT = 300.0  # seconds; a server that wants more is told to the user instead


def repeat(step: Callable, repo_id: str, outcome: str, max_attempts: int = 5, first_wait: float = 1.0):
    """Runs `step` until it succeeds, is refused for good, or has been tried often enough.

    Args:
        step (`Callable`): Without arguments; it may be run again from its start.
        repo_id (`str`): What it is about, for messages.
        outcome (`str`): What holds when it fails, such as "nothing was published".
        max_attempts (`int`, *optional*, defaults to 5): How often it is tried.
        first_wait (`float`, *optional*, defaults to 1.0): Seconds before the second attempt; doubled each time, plus
            chance, and never less than the Hub's `Retry-After`.

    Raises:
        [`PublishError`]: If it failed for good, with the Hub's words and what to do.
    """
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, max_attempts + 1):
        try:
            return step()
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            causes = list(_causes(error))
            refused = next((e for e in causes if isinstance(e, HfHubHTTPError)), None)
            broken = next((e for e in causes if isinstance(e, (httpx2.TransportError, ConnectionError))), None)
            status = refused.response.status_code if refused is not None else None
            temporary = broken is not None or status in RETRIED
            wait = max(first_wait * 2 ** (attempt - 1) * random.uniform(1, 1.5), _asked_wait(refused))
            what = _what(error, refused, broken)
            if not temporary or attempt == max_attempts or wait > MAX_WAIT:
                if temporary and (status is None or status >= 500):
                    outcome += ", as far as is known"  # the deed may have been done, and its answer lost
                tries = f" after {attempt} attempts" if attempt > 1 else ""
                advice = _advice(repo_id, status, temporary, wait, what)
                raise PublishError(f"{repo_id}: {outcome}{tries} ({what}){advice}.") from error
            logger.warning("%s; attempt %d of %d in %.1f s", what, attempt + 1, max_attempts, wait)
            time.sleep(wait)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _asked_wait(refused) -> float:
    """Seconds that the Hub asks to wait: `Retry-After` (seconds or a date), or the end of the rate limit's window."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if refused is None:
        return 0.0
    asked = refused.response.headers.get("retry-after", "").strip()
    limit = parse_ratelimit_headers(refused.response.headers)
    if asked.isdigit():
        return float(asked)
    if (date := email.utils.parsedate_tz(asked)) is not None:
        return email.utils.mktime_tz(date) - datetime.now(UTC).timestamp()
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _what(error: BaseException, refused, broken: BaseException | None) -> str:
    if broken is not None:
        return f"the connection broke: {broken}"
    if refused is None:
        return f"{type(error).__name__}: {error}"
    # The text of an HTTP error can hold a signed upload address: only the server's own words are repeated.
    words = f"HTTP {refused.response.status_code}: {refused.server_message or 'no reason given'}"
    return words if error is refused else f"{error} {words}"


def _advice(repo_id: str, status: int | None, temporary: bool, wait: float, what: str) -> str:
    if "xet" in what:
        return ": where the server has no xet storage, set HF_HUB_DISABLE_XET=1 and publish again"
    by_status = {
        401: ": the token is not valid, run `hf auth login` again, or set HF_TOKEN to a valid token",
        403: f": the token may not write to {repo_id!r}, use one with write permission there",
        404: ": check the name, and what the token may see",
        412: ": somebody else keeps committing to this branch, publish again when they are done",
        429: f": too many requests, publish again in {wait:.0f} seconds",
    }
    return by_status.get(status, ": publish again, what has arrived is not sent twice" if temporary else "")
