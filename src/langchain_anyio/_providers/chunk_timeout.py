"""`ChatOpenAI.stream_chunk_timeout` on every backend: a limit on each wait for a chunk.

langchain-openai enforces it with `asyncio.wait_for`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, final

from anyio.lowlevel import checkpoint_if_cancelled
from typing_extensions import override

from langchain_anyio._backends.timers import wait_limit

from .forwarding import Forwarding, ForwardingManager
from .views import ABSENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@final
class ChunkTimeout:
    """The longest wait for the next chunk of a model, and the error raised after it."""

    __slots__ = ("_model", "error")

    def __init__(self, model: Any, error: Callable[..., Exception]) -> None:
        self._model = model
        self.error = error

    @property
    def seconds(self) -> float | None:
        """The model's current setting, which it may change in its call; `None` for no limit."""
        seconds: float | None = self._model.stream_chunk_timeout
        return seconds if seconds is not None and seconds > 0 else None

    def bound(self, response: Any) -> Any:
        """Return the response, with a limit on each wait if it is a stream."""
        if hasattr(response, "__anext__") or hasattr(response, "__aiter__"):
            return _Stream(response, self)
        if hasattr(response, "parse"):
            return _RawResponse(response, self)
        return response

    def expired(self, seconds: float, chunks_received: int) -> Exception:
        model_name = self._model.model_name
        # The same record as of langchain-openai, for users who monitor its log.
        logging.getLogger(getattr(self.error, "__module__", __name__)).warning(
            "langchain_openai.stream_chunk_timeout fired",
            extra={
                "source": "stream_chunk_timeout",
                "timeout_s": seconds,
                "model_name": model_name,
                "chunks_received": chunks_received,
            },
        )
        return self.error(seconds, model_name=model_name, chunks_received=chunks_received)


class _Limited(Forwarding):
    __slots__ = ("_limit",)

    def __init__(self, target: Any, limit: ChunkTimeout) -> None:
        super().__init__(target)
        self._limit = limit


@final
class _Resource(_Limited):
    """An SDK client, or a resource of its API, whose streams have a limit on each wait."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in {"chat", "completions", "responses", "beta", "with_raw_response"}:
            return _Resource(value, self._limit)
        if name in {"create", "parse"}:

            async def create(*args: Any, **kwargs: Any) -> Any:
                return self._limit.bound(await value(*args, **kwargs))

            return create
        if name == "stream":
            return lambda *args, **kwargs: _StreamManager(value(*args, **kwargs), self._limit)
        return value


@final
class _RawResponse(_Limited):
    """A response with its headers, whose content is a stream with a limit on each wait."""

    __slots__ = ()

    def parse(self, **kwargs: Any) -> Any:
        return self._limit.bound(self._target.parse(**kwargs))


@final
class _StreamManager(_Limited, ForwardingManager):
    __slots__ = ()

    @override
    def _entered(self, stream: Any) -> Any:
        return self._limit.bound(stream)


@final
class _Stream(_Limited, ForwardingManager):
    """An SDK stream with a limit on the wait for each chunk."""

    __slots__ = ("_chunks_received", "_next_chunk", "_seconds", "_wait")

    def __init__(self, target: Any, limit: ChunkTimeout) -> None:
        super().__init__(target, limit)
        # The SDKs' streams are iterators themselves; `__aiter__` would only wrap them in a
        # generator that nobody closes.
        chunks = target if hasattr(target, "__anext__") else target.__aiter__()
        self._next_chunk: Callable[[], Awaitable[Any]] = chunks.__anext__
        self._chunks_received = 0
        self._seconds = limit.seconds or math.inf
        self._wait = wait_limit(self._seconds)

    @override
    def _entered(self, stream: Any) -> _Stream:
        return self

    @override
    async def __aexit__(self, *exc_info: object) -> Any:
        self._wait.disarm()
        return await super().__aexit__(*exc_info)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        # A wait that times out closes the response, as a cancelled one does.
        with self._wait:
            chunk = await self._next_chunk()
            self._chunks_received += 1
            return chunk
        await checkpoint_if_cancelled()
        raise self._limit.expired(self._seconds, self._chunks_received)


def bounded(show: Callable[[Any], Any] | None, limit: ChunkTimeout, stored: Any) -> Any:
    """Return the SDK client or API resource to show, whose streams have the limit."""
    client = stored if show is None else show(stored)
    return client if client is ABSENT or client is None else _Resource(client, limit)


class _Elsewhere(float):
    """A limit that langchain-openai treats as unset, because `ChunkTimeout` does it."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def elsewhere(seconds: Any) -> Any:
    """Return the setting as one that langchain-openai treats as unset."""
    return seconds if seconds is None or seconds is ABSENT else _Elsewhere(seconds)
