"""What a provider's failure means: short, without keys, and whether the same call may succeed later."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dszig_py.errors import LMError

__all__ = ["KEYS", "failure", "retry_after"]

KEYS = re.compile(r"(sk-|AIza|Bearer +|[?&]key=)[\w.*~+/-]+")
_PREFIX = re.compile(r"^(?:litellm\.)?(?:\w+Error|Timeout): ?(?:\w+(?: Error)?: )?(?:\w+Exception - )?")
_LOCAL_FAULT = re.compile(r"missing (?:[\w ]*api key|credentials)|no module named", re.IGNORECASE)


def failure(error: Exception, model: str, key: str) -> LMError:
    """``error`` as ours: short, without keys, and saying whether the same call may succeed later."""
    chain = _chain(error)
    headers = _headers(chain)
    status = getattr(error, "status_code", None)
    status = int(status) if isinstance(status, int | str) and str(status).isdigit() else None
    detail = _PREFIX.sub("", " ".join(str(error).split("Traceback (most recent")[0].split()))
    if key:
        detail = detail.replace(key, "...")
    if headers is None and detail.lower().startswith("connection error") and (place := _address(chain)):
        detail = f"no connection to {place}"
    # Without headers there was no HTTP answer and the status is LiteLLM's invention.
    told = f"{type(error).__name__} (HTTP {status})" if status and headers is not None else type(error).__name__
    return LMError(
        f"{model}: {told}: {KEYS.sub('...', detail)[:300]}",
        retryable=_retryable(chain, status, answered=headers is not None),
        retry_after=retry_after(headers or {}),
    )


def _retryable(chain: list[BaseException], status: int | None, *, answered: bool) -> bool:
    """Decided by status: the classes say less, LiteLLM has one ``APIError`` for 403, 409 and 529."""
    if status is None or any("insufficient_quota" in f"{getattr(e, 'code', '')} {e}" for e in chain):
        return False
    if not answered and any(isinstance(e, ImportError) or _LOCAL_FAULT.search(str(e)) for e in chain):
        return False  # a missing key or package, which LiteLLM reports as a server's error 500
    return status in (408, 409, 429) or status >= 500 or status < 300  # 2xx: the body was broken


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and len(chain) < 10:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _headers(chain: list[BaseException]) -> dict[str, str] | None:
    """The headers of the provider's answer, names in lower case; ``None`` where it gave none."""
    for error in chain:
        headers: Any = getattr(error, "litellm_response_headers", None)
        headers = headers or getattr(getattr(error, "response", None), "headers", None)
        if headers:
            return {str(name).lower(): str(value) for name, value in headers.items()}
    return None


def _address(chain: list[BaseException]) -> str:
    """Host and port that were to be reached, without a name or a key in the address; the innermost error knows them."""
    for error in reversed(chain):
        if type(error).__module__.startswith("litellm"):
            continue  # the request of its own errors is made up
        with suppress(RuntimeError):  # httpx, of an error that has no request
            if place := getattr(getattr(getattr(error, "request", None), "url", None), "netloc", b""):
                return place.decode("ascii", "replace")
    return ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from ``retry-after-ms`` or ``retry-after`` (seconds or a date). ``None`` for a moment that is over, by a clock
    that is not ours: all attempts would be made at once.
    """
    seconds = math.nan
    given = headers.get("retry-after", "")
    with suppress(ValueError, TypeError):
        seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    with suppress(ValueError):
        seconds = float(given)
    with suppress(ValueError, KeyError):
        seconds = float(headers["retry-after-ms"]) / 1000
    return seconds if math.isfinite(seconds) and seconds > 0 else None
