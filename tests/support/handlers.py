"""Helpers of tests with callback handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from limits import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from langchain_core.callbacks import BaseCallbackHandler


def config_of(*handlers: BaseCallbackHandler) -> Any:
    """Return the config of a run that calls the handlers."""
    return {"callbacks": list(handlers)}


async def all_of(iterable: AsyncIterable[Any]) -> list[Any]:
    """Return all items, or fail if they do not end."""
    with anyio.fail_after(HANGS):
        return [item async for item in iterable]
