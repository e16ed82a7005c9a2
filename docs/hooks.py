"""Hooks of MkDocs: pages made of the files of the repository, and where other references are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES["SECURITY.md"] = "security.md"

# Their inventories would have to be fetched for each build, so the names are listed.
PYTHON, ANYIO = (
    "https://docs.python.org/3/library/",
    "https://anyio.readthedocs.io/en/stable/api.html",
)
TRIO = "https://trio.readthedocs.io/en/stable/"
LANGCHAIN = "https://reference.langchain.com/python/langchain-core"
ELSEWHERE = {
    **{
        name: f"{PYTHON}{page}.html#{anchor}"
        for page, anchor, *names in (
            ("asyncio-queue", "asyncio.Queue", "asyncio.Queue"),
            ("asyncio-sync", "asyncio.Event", "asyncio.Event"),
            ("asyncio-exceptions", "asyncio.CancelledError", "asyncio.CancelledError"),
            ("collections.abc", "collections.abc.AsyncIterator", "collections.abc.AsyncIterator"),
            ("collections.abc", "collections.abc.Awaitable", "collections.abc.Awaitable"),
            ("collections.abc", "collections.abc.Callable", "collections.abc.Callable"),
            ("collections.abc", "collections.abc.Coroutine", "collections.abc.Coroutine"),
            ("collections.abc", "collections.abc.Generator", "collections.abc.Generator"),
            ("collections.abc", "collections.abc.Mapping", "collections.abc.Mapping"),
            ("collections.abc", "collections.abc.Sequence", "collections.abc.Sequence"),
            ("exceptions", "ConnectionError", "ConnectionError"),
            ("exceptions", "BaseException", "BaseException"),
            ("exceptions", "ImportError", "ImportError"),
            ("exceptions", "ModuleNotFoundError", "ModuleNotFoundError"),
            ("exceptions", "ResourceWarning", "ResourceWarning"),
            ("exceptions", "RuntimeError", "RuntimeError"),
            ("exceptions", "TimeoutError", "TimeoutError"),
            ("exceptions", "TypeError", "TypeError"),
            ("exceptions", "ValueError", "ValueError"),
            ("functions", "bool", "bool"),
            ("functions", "float", "float"),
            ("functions", "int", "int"),
            ("functions", "object", "object"),
            ("stdtypes", "dict", "dict"),
            ("stdtypes", "list", "list"),
            ("stdtypes", "str", "str"),
            ("stdtypes", "tuple", "tuple"),
            ("typing", "typing.Any", "typing.Any"),
            ("typing", "typing.Literal", "typing.Literal"),
            ("uuid", "uuid.UUID", "uuid.UUID"),
        )
        for name in names
    },
    **{
        f"anyio.{name}": f"{ANYIO}#anyio.{name}"
        for name in (
            "BrokenResourceError",
            "ClosedResourceError",
            "EndOfStream",
            "WouldBlock",
            "create_task_group",
            "fail_after",
            "move_on_after",
            "run",
            "to_thread.run_sync",
        )
    },
    "trio.Cancelled": f"{TRIO}reference-core.html#trio.Cancelled",
    "trio.run": f"{TRIO}reference-core.html#trio.run",
    "trio.testing.MockClock": f"{TRIO}reference-testing.html#trio.testing.MockClock",
    "langchain-core": LANGCHAIN,
    "langgraph": "https://reference.langchain.com/python/langgraph",
    **{
        # Where a name is imported from, and the module that the page of the reference is named after.
        f"langchain_core.{package}.{name}": f"{LANGCHAIN}/{package}/{module}/{name}"
        for package, module, name in (
            ("callbacks", "base", "AsyncCallbackHandler"),
            ("language_models", "base", "LanguageModelInput"),
            ("language_models", "chat_models", "BaseChatModel"),
            ("messages", "ai", "AIMessage"),
            ("messages", "base", "BaseMessage"),
            ("outputs", "llm_result", "LLMResult"),
            ("runnables", "config", "RunnableConfig"),
        )
    },
}


def on_config(config: Any) -> Any:
    for name, url in ELSEWHERE.items():
        config.plugins["autorefs"].register_url(name, url)
    return config


def on_files(files: Any, config: Any) -> Any:
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        # Links are as in the repository; `docs/` is the root of the site.
        text = text.replace("](docs/", "](").replace("](CONTRIBUTING.md", "](contributing.md")
        assert not re.search(r"\]\([A-Z]", text), name
        files.append(File.generated(config, page, content=text))
    return files
