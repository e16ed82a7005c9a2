"""All cases."""

from __future__ import annotations

from benchmarks import handlers, memory, streams

CASES = [*streams.CASES, *handlers.CASES, *memory.CASES]
