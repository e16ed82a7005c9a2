"""Callback handlers: tokens to iterate over, of all models or of the final answer, and tokens on standard output."""

from __future__ import annotations

from ._final import AsyncFinalIteratorCallbackHandler as AsyncFinalIteratorCallbackHandler
from ._iterator import AsyncIteratorCallbackHandler as AsyncIteratorCallbackHandler
from ._iterator import TokenIterator as TokenIterator
from ._stdout import AsyncStreamingStdOutCallbackHandler as AsyncStreamingStdOutCallbackHandler
