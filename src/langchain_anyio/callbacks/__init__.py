"""Callback handlers that stream tokens to an async iterator or to standard output."""

from __future__ import annotations

from ._final import AsyncFinalIteratorCallbackHandler as AsyncFinalIteratorCallbackHandler
from ._iterator import AsyncIteratorCallbackHandler as AsyncIteratorCallbackHandler
from ._iterator import TokenIterator as TokenIterator
from ._stdout import AsyncStreamingStdOutCallbackHandler as AsyncStreamingStdOutCallbackHandler
