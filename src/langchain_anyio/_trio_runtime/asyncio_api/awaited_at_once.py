"""Inspect a caller to find out whether it awaits the result of its call at once."""

from __future__ import annotations

from opcode import opmap
from types import CodeType, FrameType
from typing import Final, cast

_CACHE: Final = opmap.get("CACHE", -1)
_GET_AWAITABLE: Final = opmap["GET_AWAITABLE"]

# The offset of the next instruction after each kind of call: past its inline caches.
_next: Final[dict[int, int]] = {}


# The code of functions that only return the result of a call to their own caller.
TRANSPARENT: Final[set[CodeType]] = set()


def awaited_at_once(caller: FrameType) -> bool:
    """Return whether `caller` awaits the result of the call that it is making.

    asyncio returns futures whose work has already begun. A caller that awaits such a future at once
    cannot tell it from a coroutine, which needs no task.
    """
    code = caller.f_code.co_code
    index = caller.f_lasti
    call = code[index]
    if call not in _next:
        following = index + 2
        while code[following] == _CACHE:
            following += 2
        _next[call] = following - index
    if code[index + _next[call]] == _GET_AWAITABLE:
        return True
    return caller.f_code in TRANSPARENT and awaited_at_once(cast("FrameType", caller.f_back))
