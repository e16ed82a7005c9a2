"""`enable_trio` and `disable_trio`, which import neither trio nor asyncio until they are called."""

from __future__ import annotations

import sys


def enable_trio(*packages: str) -> None:
    """Make langchain-core run on trio too, and what is written against it where it is installed.

    That is `langgraph`, `langgraph_sdk`, `langchain`, `langchain_classic`, `langsmith`,
    `deepagents`, `langchain_mcp_adapters`, `fastmcp`, `langchain_aws`, `langchain_openai`,
    `langchain_mistralai`, `cohere` and `openrouter`. Where another package asks for asyncio's event
    loop, the error has a note that names it.

    The modules of these libraries get a namespace in the place of `asyncio`: on asyncio, each name
    is asyncio's own object, as before; within a trio task it is one built on trio. Then their whole
    async API runs on trio natively, with structured concurrency added: tasks do not outlive the
    public call that they were started in, a cancelled scope stops them all, their errors are raised
    bare, and closing the outermost async generator closes the inner ones and joins their tasks.

    It may be called any number of times, in any thread, before or after the libraries are imported;
    modules that are imported later are covered. It holds for the whole process, until
    `disable_trio()`. Programs on asyncio are not affected.

    Args:
        packages: Import names of other packages or modules to run on trio in the same way, such as
            `"another_library"`. This call does not import them; of a dotted name, it imports the
            parents. A package that does not use asyncio is not an error. `"__main__"` is the
            program itself: call this after its imports.

    Raises:
        ImportError: trio is not installed.
        ModuleNotFoundError: There is no such package.
        TypeError: A package is not a `str`.
        ValueError: A package is not an import name, but the name of a distribution, such as
            `"langchain-openai"`. Nothing has been enabled then.

    Example:
        ```python
        import langchain_anyio, trio

        langchain_anyio.enable_trio()


        async def main():
            chain = prompt | model | StrOutputParser()
            async with aclosing(chain.astream({"topic": "water"})) as stream:
                async for text in stream:
                    print(text, end="")


        trio.run(main)
        ```
    """
    try:
        import trio  # noqa: F401
    except ImportError as exc:
        raise ImportError(
            "enable_trio() needs trio, which is not installed: pip install 'langchain-anyio[trio]'",
            name="trio",
        ) from exc
    from .patching import enable

    enable(packages)


def disable_trio() -> None:
    """Undo `enable_trio()`, for langchain-core and all other packages.

    Call it when none of their code runs on trio: such code fails at its next use of asyncio.
    Without an `enable_trio()` before, it does nothing.
    """
    enabling = sys.modules.get("langchain_anyio._trio_runtime.patching")
    if enabling is not None:
        enabling.disable()


enable_trio.__module__ = disable_trio.__module__ = "langchain_anyio"
