"""All cases."""

from __future__ import annotations

from benchmarks import agents, handlers, memory, streams

CASES = [*streams.CASES, *handlers.CASES, *memory.CASES, *agents.CASES]
