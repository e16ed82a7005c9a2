"""Exceptions that this package adds to those of anyio."""

from __future__ import annotations

import anyio


class StreamCancelledError(anyio.ClosedResourceError):
    """The run of a stream, a projection or a handler was cancelled or closed.

    Raised to consumers in place of the backend's cancellation exception, which belongs to the
    cancelled task and must not be raised in another one. Callback handlers receive it as the error
    of a cancelled run.
    """

    def __init__(self, message: str = "the stream was closed before it was finished") -> None:
        super().__init__(message)


class StreamStalledError(TimeoutError):
    """The model sent nothing for longer than `chunk_timeout`.

    Attributes:
        chunk_timeout: The limit that was exceeded, in seconds.
    """

    def __init__(self, chunk_timeout: float) -> None:
        super().__init__(
            f"the model sent no chunk for {chunk_timeout:g} s; "
            "increase chunk_timeout if it needs longer"
        )
        self.chunk_timeout = chunk_timeout

    def __reduce__(self) -> tuple[type[StreamStalledError], tuple[float]]:
        return type(self), (self.chunk_timeout,)


class StreamTruncatedError(ConnectionError):
    """The answer ended before the model had finished it.

    The connection was cut where HTTP takes that for the end: none of the marks has come by which
    the provider ends an answer.
    """

    def __init__(self, message: str = "the answer ended before the model had finished it") -> None:
        super().__init__(message)


for _error in (StreamCancelledError, StreamStalledError, StreamTruncatedError):
    _error.__module__ = "langchain_anyio"
del _error
