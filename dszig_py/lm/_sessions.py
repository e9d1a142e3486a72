"""aiohttp's sessions, one an event loop, closed when the loop ends; and the reading of an answer within bounds."""

from __future__ import annotations

import asyncio
import importlib
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dszig_py.lm._endpoints import proxy

if TYPE_CHECKING:
    import aiohttp

__all__ = ["MAX_REPLY", "TooLarge", "library", "pieces", "posted", "whole"]

MAX_REPLY = 64 * 1024 * 1024  # bytes of one answer, decompressed
# uvicorn, and so vLLM, hangs up on connections idle for 5 s: one that is given up before is never found dead.
_IDLE_SECONDS = 4.0
_BIG_BODY = 512 * 1024  # bytes; aiohttp asks for a file object above a megabyte


class TooLarge(Exception):
    """An answer of more than :data:`MAX_REPLY` bytes."""


_aiohttp: Any = None


@dataclass(slots=True)
class _Open:
    session: aiohttp.ClientSession
    closer: AsyncGenerator[None, None]


_open: dict[asyncio.AbstractEventLoop, _Open] = {}


async def library() -> Any:
    """aiohttp, imported off the event loop at the first call: it takes 0.2 s."""
    global _aiohttp
    if _aiohttp is None:  # not sys.modules: what another thread is importing is in there half made
        _aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
    return _aiohttp


async def _session(aiohttp: Any) -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    if (known := _open.get(loop)) is not None:
        return known.session
    for old in [old for old in list(_open) if old.is_closed()]:
        _open.pop(old, None)
    # No limit of connections: the gate limits calls. No cookies: one caller's are no other's.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, ssl=_certificates())
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    known = _open[loop] = _Open(session, _until_loop_ends(session))
    await anext(known.closer)
    return known.session


async def _until_loop_ends(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """An event loop has no shutdown hook, but it does finish the async generators begun on it."""
    try:
        yield
    finally:
        _open.pop(asyncio.get_running_loop(), None)
        await session.close()
        await asyncio.sleep(0)  # the sockets themselves close one round of the loop later


@lru_cache(maxsize=1)
def _certificates() -> Any:
    """As LiteLLM and httpx have it: certifi's, unless the environment names others. Not every Python finds the system's."""
    import ssl

    import certifi

    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())


async def posted(url: str, body: bytes, headers: Mapping[str, str], seconds: float | None) -> aiohttp.ClientResponse:
    """The answer's head; to be entered and left, which gives its connection back. Redirects are not followed: a key goes to the
    address it was given for. Raises aiohttp's errors.
    """
    aiohttp = await library()
    session = await _session(aiohttp)
    timeout = aiohttp.ClientTimeout(total=seconds)
    data = body if len(body) < _BIG_BODY else io.BytesIO(body)
    return await session.post(url, data=data, headers=headers, allow_redirects=False, timeout=timeout, proxy=proxy(url))


async def pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The answer's bytes as they come. Raises :class:`TooLarge`."""
    size = 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > MAX_REPLY:
            raise TooLarge(f"the answer has more than {MAX_REPLY >> 20} MiB")
        yield piece


async def whole(answer: aiohttp.ClientResponse) -> bytes:
    """All bytes of the answer. Raises :class:`TooLarge`, before reading where the answer says its size."""
    if (answer.content_length or 0) > MAX_REPLY:
        raise TooLarge(f"the answer has {answer.content_length:,} bytes, more than {MAX_REPLY >> 20} MiB")
    return b"".join([piece async for piece in pieces(answer)])


os.register_at_fork(after_in_child=_open.clear)
