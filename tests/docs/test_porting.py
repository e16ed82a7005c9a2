"""Before and after, as the page on porting shows them, print the same."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import langchain_anyio
from models import AStreamModel

if TYPE_CHECKING:
    from collections.abc import Awaitable

PAGE = (Path(__file__).parents[2] / "docs" / "porting.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PAIRS = list(zip(EXAMPLES[::2], EXAMPLES[1::2], strict=True))


def run(example: str) -> Awaitable[None]:
    """Run an example that awaits at its top level, with the model that it takes for granted."""
    words = ["So ", "sparkling ", "water ", "is ", "wet", "."]
    model = AStreamModel(words=words, before=lambda number: asyncio.sleep(0.01))
    if example.startswith("# After: asyncio and trio"):
        model = AStreamModel(words=words)
    names: dict[str, Any] = {"model": model}
    code = compile(example, "porting.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return eval(code, names)  # type: ignore[no-any-return]


def on_asyncio(example: str) -> None:
    async def main() -> None:
        await run(example)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_before_and_after_print_the_same(
    before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert before.startswith("# Before: asyncio\n")
    on_asyncio(before)
    printed = capsys.readouterr().out
    assert "wet" in printed
    on_asyncio(after)
    assert capsys.readouterr().out == printed


@pytest.mark.anyio
async def test_after_on_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    (after,) = (after for _, after in PAIRS if after.startswith("# After: asyncio and trio"))
    await run(after)
    assert capsys.readouterr().out == "So sparkling water is wet."


def test_each_public_name_is_on_the_page() -> None:
    names = {name for name in dir(langchain_anyio) if not name.startswith("_")}
    modules = {"annotations", "callbacks"}
    assert {name for name in names - modules if name not in PAGE} == set()
