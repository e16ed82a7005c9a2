"""All cases."""

from __future__ import annotations

from benchmarks import agents, chains, handlers, memory, providers, streams

CASES = [
    *streams.CASES,
    *handlers.CASES,
    *memory.CASES,
    *chains.CASES,
    *agents.CASES,
    *providers.CASES,
]
