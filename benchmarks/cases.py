"""All cases."""

from __future__ import annotations

from benchmarks import agents, chains, handlers, memory, streams

CASES = [*streams.CASES, *handlers.CASES, *memory.CASES, *chains.CASES, *agents.CASES]
