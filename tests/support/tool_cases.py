"""What else a chain or an agent uses: vector stores, retrievers, loaders, checkpointers, MCP, tracing.

Each case is a function that uses one of them, and asserts what comes of it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

TEXTS = ["water is wet", "fire is hot", "ice is cold"]


@dataclass(frozen=True)
class ToolCase:
    """One of them.

    Args:
        kind: What it is.
        name: Of its class.
        package: The distribution that it is in.
        check: Uses it; takes a directory for its files.
        runs: Natively on the event loop, or in a thread.
        needs_asyncio: Whether it fails on trio.
        note: What a user has to know.
    """

    kind: str
    name: str
    package: str
    check: Callable[[Path], Awaitable[None]]
    runs: str
    needs_asyncio: bool = False
    note: str = ""

    def __str__(self) -> str:
        return self.name.replace("`", "").replace(" ", "-")


async def _use_vector_store(store: Any) -> None:
    ids = await store.aadd_documents([Document(text) for text in TEXTS])
    assert len(ids) == len(TEXTS)
    found = await store.asimilarity_search(TEXTS[1], k=1)
    assert [document.page_content for document in found] == [TEXTS[1]]
    retriever = store.as_retriever(search_kwargs={"k": 1})
    assert (await retriever.ainvoke(TEXTS[2]))[0].page_content == TEXTS[2]
    await store.adelete(ids[:1])
    assert len(await store.asimilarity_search(TEXTS[0], k=3)) == 2


async def _in_memory(_: Path) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    await _use_vector_store(InMemoryVectorStore(DeterministicFakeEmbedding(size=16)))


async def _faiss(_: Path) -> None:
    from langchain_community.vectorstores import FAISS

    embeddings = DeterministicFakeEmbedding(size=16)
    store = await FAISS.afrom_texts(["nothing of it"], embeddings)
    await store.adelete(list(store.index_to_docstore_id.values()))
    await _use_vector_store(store)


async def _chroma(directory: Path) -> None:
    from langchain_chroma import Chroma

    await _use_vector_store(
        Chroma(
            embedding_function=DeterministicFakeEmbedding(size=16),
            persist_directory=str(directory),
        )
    )


async def _bm25(_: Path) -> None:
    from langchain_community.retrievers import BM25Retriever

    retriever = BM25Retriever.from_texts(TEXTS, k=1)
    assert (await retriever.ainvoke("hot fire"))[0].page_content == TEXTS[1]


async def _ensemble(_: Path) -> None:
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_community.retrievers import BM25Retriever
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    await store.aadd_texts(TEXTS)
    retrievers = [BM25Retriever.from_texts(TEXTS, k=1), store.as_retriever(search_kwargs={"k": 1})]
    ensemble = EnsembleRetriever(retrievers=retrievers, weights=[0.5, 0.5])
    assert (await ensemble.ainvoke(TEXTS[1]))[0].page_content == TEXTS[1]


async def _text_loader(directory: Path) -> None:
    from langchain_community.document_loaders import TextLoader

    file = directory / "text.txt"
    file.write_text(TEXTS[0])
    loader = TextLoader(str(file))
    assert [document.page_content for document in await loader.aload()] == TEXTS[:1]
    assert [document.page_content async for document in loader.alazy_load()] == TEXTS[:1]


async def _csv_loader(directory: Path) -> None:
    from langchain_community.document_loaders import CSVLoader

    file = directory / "table.csv"
    file.write_text("text\n" + "\n".join(TEXTS))
    documents = await CSVLoader(str(file)).aload()
    assert [document.page_content for document in documents] == [f"text: {t}" for t in TEXTS]


class State(TypedDict):
    number: int


async def _use_checkpointer(checkpointer: Any) -> None:
    from langgraph.graph import START, StateGraph

    async def add(state: State) -> State:
        return {"number": state["number"] + 1}

    graph = StateGraph(State).add_node(add).add_edge(START, "add")
    compiled = graph.compile(checkpointer=checkpointer)
    config: Any = {"configurable": {"thread_id": "1"}}
    assert await compiled.ainvoke({"number": 1}, config) == {"number": 2}
    assert (await compiled.aget_state(config)).values == {"number": 2}
    history = [state.values async for state in compiled.aget_state_history(config)]
    assert history[0] == {"number": 2}


async def _in_memory_saver(_: Path) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    await _use_checkpointer(InMemorySaver())


async def _sqlite_saver(directory: Path) -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver

    from langchain_anyio.langgraph import ThreadedCheckpointSaver

    file = str(directory / "checkpoints.sqlite")
    async with ThreadedCheckpointSaver(SqliteSaver.from_conn_string(file)) as saver:
        await _use_checkpointer(saver)


async def _async_sqlite_saver(directory: Path) -> None:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    file = str(directory / "checkpoints.sqlite")
    async with AsyncSqliteSaver.from_conn_string(file) as saver:
        await _use_checkpointer(saver)


async def _mcp(directory: Path) -> None:
    from langchain_mcp_adapters.client import MultiServerMCPClient

    program = directory / "server.py"
    program.write_text(
        "from mcp.server.fastmcp import FastMCP\n"
        "server = FastMCP('sums', log_level='ERROR')\n"
        "@server.tool()\n"
        "def add(a: int, b: int) -> int:\n"
        "    '''Add two numbers.'''\n"
        "    return a + b\n"
        "server.run()\n"
    )
    connection: Any = {"transport": "stdio", "command": sys.executable, "args": [str(program)]}
    (tool,) = await MultiServerMCPClient({"sums": connection}).get_tools()
    answer = await tool.ainvoke({"a": 1, "b": 2})
    assert "3" in str(answer)


@contextmanager
def _collector() -> Iterator[tuple[str, list[str]]]:
    """Serve what LangSmith's client asks; gives its address, and the paths that were posted to."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"{}")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            paths.append(self.path)
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", paths
        finally:
            server.shutdown()
            thread.join()


async def _langsmith(_: Path) -> None:
    from langchain_core.runnables import RunnableLambda
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client

    async def shout(text: str) -> str:
        return text.upper()

    with _collector() as (address, paths):
        info = {"batch_ingest_config": {"use_multipart_endpoint": False}}
        client = Client(api_url=address, api_key="unused", info=info, auto_batch_tracing=False)
        tracer = LangChainTracer(client=client, project_name="loopback")
        chain = RunnableLambda(shout) | RunnableLambda(shout)
        assert await chain.ainvoke("water", {"callbacks": [tracer]}) == "WATER"
        tracer.wait_for_futures()
        client.close()
    assert len([path for path in paths if "runs" in path]) >= 3


TOOLS: tuple[ToolCase, ...] = (
    ToolCase("vector store", "`InMemoryVectorStore`", "langchain-core", _in_memory, "native"),
    ToolCase("vector store", "`FAISS`", "langchain-community", _faiss, "thread"),
    ToolCase("vector store", "`Chroma`", "langchain-chroma", _chroma, "thread"),
    ToolCase("retriever", "`BM25Retriever`", "langchain-community", _bm25, "thread"),
    ToolCase("retriever", "`EnsembleRetriever`", "langchain-classic", _ensemble, "native"),
    ToolCase("loader", "`TextLoader`", "langchain-community", _text_loader, "thread"),
    ToolCase("loader", "`CSVLoader`", "langchain-community", _csv_loader, "thread"),
    ToolCase("checkpointer", "`InMemorySaver`", "langgraph-checkpoint", _in_memory_saver, "native"),
    ToolCase(
        *("checkpointer", "`SqliteSaver`", "langgraph-checkpoint-sqlite", _sqlite_saver, "thread"),
        note="in a `ThreadedCheckpointSaver`",
    ),
    ToolCase(
        "checkpointer",
        "`AsyncSqliteSaver`",
        "langgraph-checkpoint-sqlite",
        _async_sqlite_saver,
        "native",
        needs_asyncio=True,
        note="aiosqlite needs asyncio; on trio use `SqliteSaver`",
    ),
    ToolCase("MCP", "`MultiServerMCPClient`", "langchain-mcp-adapters", _mcp, "native"),
    ToolCase(
        *("tracing", "`LangChainTracer`", "langsmith", _langsmith, "thread"),
        note="sends from threads of its own",
    ),
)
