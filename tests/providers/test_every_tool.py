"""What a chain or an agent uses beside its model, on each backend."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import anyio
import pytest

from langchain_anyio import disable_trio, enable_trio
from tool_cases import TOOLS, ToolCase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def enabled() -> Iterator[None]:
    enable_trio()
    yield
    disable_trio()
    for _ in range(3):
        gc.collect()


@pytest.mark.anyio
@pytest.mark.parametrize("case", TOOLS, ids=str)
async def test_tool(case: ToolCase, anyio_backend: tuple[str, object], tmp_path: Path) -> None:
    with anyio.fail_after(60):
        if case.needs_asyncio and anyio_backend[0] == "trio":
            with pytest.raises(RuntimeError) as caught:
                await case.check(tmp_path)
            words = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
            assert "asyncio" in words
        else:
            await case.check(tmp_path)
