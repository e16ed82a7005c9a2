"""Packages that `enable_trio()` covers where they are installed, as they are used: deepagents, fastmcp, MCP tools."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_anyio import disable_trio, enable_trio

pytest.importorskip("trio")

pytestmark = [
    pytest.mark.anyio,
    # Theirs: they warn of what they will change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning"),
]


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    enable_trio()
    yield
    disable_trio()


class Busy(BaseChatModel):
    """A model that writes a file and gives a task away at once, then reads the file."""

    @property
    def _llm_type(self) -> str:
        return "busy"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        results = [str(message.content) for message in messages if isinstance(message, ToolMessage)]
        file = {"file_path": "/a.txt"}
        task = {"description": "given away", "subagent_type": "general-purpose"}
        calls: list[tuple[str, Any]] = []
        if messages[-1].content == "given away":
            message = AIMessage("the task is done")
        else:
            if not results:
                calls = [("write_file", {**file, "content": "text of the file"}), ("task", task)]
            elif len(results) == 2:
                calls = [("read_file", file)]
            message = AIMessage(
                "" if calls else " | ".join(results),
                tool_calls=[
                    {"name": name, "args": args, "id": f"{len(results)}{name}", "type": "tool_call"}
                    for name, args in calls
                ],
            )
        return ChatResult(generations=[ChatGeneration(message=message)])


async def test_a_deep_agent() -> None:
    deepagents = pytest.importorskip("deepagents")
    agent = deepagents.create_deep_agent(model=Busy())
    state = await agent.ainvoke({"messages": [("user", "go")]})
    answer = str(state["messages"][-1].content)
    assert "the task is done" in answer
    assert "text of the file" in answer


async def test_a_server_and_a_client_of_fastmcp() -> None:
    fastmcp = pytest.importorskip("fastmcp")
    server = fastmcp.FastMCP("server")

    async def add(a: int, b: int) -> int:
        return a + b

    server.tool(add)
    async with fastmcp.Client(server) as client:
        assert [tool.name for tool in await client.list_tools()] == ["add"]
        assert (await client.call_tool("add", {"a": 1, "b": 2})).data == 3


SERVER = """
from fastmcp import FastMCP

server = FastMCP("server")

@server.tool
async def add(a: int, b: int) -> int:
    return a + b

server.run(show_banner=False, log_level="ERROR")
"""


@pytest.mark.slow
async def test_a_client_of_a_server_in_another_process(tmp_path: Path) -> None:
    fastmcp = pytest.importorskip("fastmcp")
    transports = pytest.importorskip("fastmcp.client.transports")
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    transport = transports.PythonStdioTransport(str(server), python_cmd=sys.executable)
    async with fastmcp.Client(transport) as client:
        assert (await client.call_tool("add", {"a": 1, "b": 2})).data == 3


@pytest.mark.slow
async def test_the_tools_of_langchain_mcp_adapters(tmp_path: Path) -> None:
    # Its releases that need an earlier mcp cannot be installed beside fastmcp's newest.
    client = pytest.importorskip("langchain_mcp_adapters.client", exc_type=ImportError)
    fastmcp = "mcp.server.fastmcp"
    server = tmp_path / "server.py"
    server.write_text(
        f"from {fastmcp} import FastMCP\nserver = FastMCP('server', log_level='ERROR')\n"
        "@server.tool()\nasync def add(a: int, b: int) -> int:\n    return a + b\nserver.run()\n"
    )
    entry = {"command": sys.executable, "args": [str(server)], "transport": "stdio"}
    tools = await client.MultiServerMCPClient({"a": entry, "b": entry}).get_tools()
    assert [tool.name for tool in tools] == ["add", "add"]
    assert "3" in str(await tools[0].ainvoke({"a": 1, "b": 2}))
