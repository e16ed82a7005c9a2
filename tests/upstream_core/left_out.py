"""The asynchronous tests of langchain-core that pass on asyncio and not on trio, each with its reason.

A test listed here that passes on trio, or is no longer there, fails the session.
"""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {}


def left_out(release: str) -> dict[str, str]:
    """Return the names and reasons for a release."""
    return LEFT_OUT
