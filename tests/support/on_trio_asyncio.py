"""A program on trio-asyncio, for `test_trio_runtime_trio.py`: importing it changes all of asyncio in the process."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

# Not ours to mend: it uses what asyncio deprecates on newer Pythons.
warnings.simplefilter("ignore", DeprecationWarning)

import trio  # noqa: E402
import trio_asyncio  # type: ignore[import-untyped]  # noqa: E402
from langchain_core.runnables import RunnableLambda, RunnableParallel  # noqa: E402

import langchain_anyio  # noqa: E402
from langchain_anyio._trio_runtime.namespace import NAMESPACE  # noqa: E402


async def on_trio(_: Any) -> str:
    await trio.lowlevel.checkpoint()
    assert NAMESPACE.sleep is not asyncio.sleep
    return "trio"


async def on_asyncio(_: Any) -> str:
    await asyncio.sleep(0)
    assert NAMESPACE.sleep is asyncio.sleep
    return "asyncio"


def chain(step: Any) -> Any:
    return RunnableLambda(step) | RunnableParallel(a=RunnableLambda(step), b=lambda x: x)


async def streamed(step: Any) -> dict[str, str]:
    return {k: v async for chunk in chain(step).astream(0) for k, v in chunk.items()}


async def main() -> None:
    assert await chain(on_trio).ainvoke(0) == {"a": "trio", "b": "trio"}
    async with trio_asyncio.open_loop():
        for _ in range(3):
            # trio's tasks, beside the loop
            assert await chain(on_trio).ainvoke(0) == {"a": "trio", "b": "trio"}
            assert await streamed(on_trio) == {"a": "trio", "b": "trio"}
            # asyncio's, on it
            crossed = trio_asyncio.aio_as_trio(chain(on_asyncio).ainvoke)
            assert await crossed(0) == {"a": "asyncio", "b": "asyncio"}
            assert await trio_asyncio.aio_as_trio(streamed)(on_asyncio) == {
                "a": "asyncio",
                "b": "asyncio",
            }

        async def nested(_: Any) -> Any:
            """From trio over asyncio to trio again."""
            back = trio_asyncio.trio_as_aio(chain(on_trio).ainvoke)

            async def there(value: Any) -> Any:
                assert NAMESPACE.sleep is asyncio.sleep
                return await back(value)

            return await trio_asyncio.aio_as_trio(chain(there).ainvoke)(0)

        inner = {"a": "trio", "b": "trio"}
        assert (await chain(nested).ainvoke(0))["a"] == {"a": inner, "b": inner}
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(chain(on_trio).ainvoke, 0)
                nursery.start_soon(trio_asyncio.aio_as_trio(chain(on_asyncio).ainvoke), 0)
    assert await chain(on_trio).ainvoke(0) == {"a": "trio", "b": "trio"}


langchain_anyio.enable_trio()
trio.run(main)
print("done")
