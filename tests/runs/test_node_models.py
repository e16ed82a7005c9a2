"""The events of models that nodes call, beside those that langchain-core makes of them itself."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import Field

from langchain_anyio import open_stream
from langchain_anyio._cli.demo import DemoChatModel
from langchain_anyio._langchain_core import HAS_TOOL_CALL_DELTAS
from models import AStreamModel, Gate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]

ASKED: Any = {"messages": [("user", "hi")]}
CALL = [
    tool_call_chunk(name="look_up", args='{"topic":', id="1", index=0),
    tool_call_chunk(name=None, args=' "water"}', id=None, index=0),
]


class Chunks(BaseChatModel):
    """Yields chunks, and then raises an error, if given."""

    chunks: list[Any]
    error: Exception | None = None
    closed: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "chunks"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        try:
            for chunk in self.chunks:
                message = AIMessageChunk(chunk) if isinstance(chunk, str) else chunk
                yield ChatGenerationChunk(message=message.model_copy(deep=True))
            if self.error is not None:
                raise self.error
        finally:
            self.closed.append("closed")


MODELS = {
    "text": Chunks(chunks=["one ", "two ", "", "three"]),
    "blocks": Chunks(
        chunks=[
            AIMessageChunk([{"type": "text", "text": "a", "index": index}])
            for index in (0, 0, 1, 1, 0)
        ]
    ),
    "tool calls": Chunks(
        chunks=["I look. ", *(AIMessageChunk("", tool_call_chunks=[part]) for part in CALL), "Yes."]
    ),
    "usage": Chunks(
        chunks=[
            AIMessageChunk("one", response_metadata={"model_provider": "openai"}),
            AIMessageChunk(
                "",
                usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
                response_metadata={"finish_reason": "stop"},
                additional_kwargs={"refusal": "no"},
            ),
        ]
    ),
    "demo": DemoChatModel(seconds_per_chunk=0),
}


def graph_of(model: Any) -> Any:
    async def talk(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


def without_ids(events: list[Any]) -> list[Any]:
    return [{key: value for key, value in event.items() if key != "id"} for event in events]


async def payloads(run: Any) -> list[Any]:
    return without_ids(
        [event["params"]["data"][0] async for event in run if event["method"] == "messages"]
    )


@pytest.mark.parametrize("name", MODELS)
async def test_they_are_those_of_langchain_core(name: str) -> None:
    graph = graph_of(MODELS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is experimental
        theirs = await graph.astream_events(ASKED, version="v3")
    expected = await payloads(theirs)
    answer = (await theirs.output())["messages"][-1]
    async with open_stream(graph, ASKED) as run:
        assert await payloads(run) == expected
        ours = (await run.output)["messages"][-1]
    assert len(expected) > 4
    assert ours.model_dump(exclude={"id"}) == answer.model_dump(exclude={"id"})


async def test_a_node_that_streams_its_model_reads_deltas_as_they_come() -> None:
    gate = Gate(2)
    model = AStreamModel(before=gate)
    seen: list[str] = []

    async def talk(state: MessagesState, config: RunnableConfig) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is in beta
            stream: Any = await model.astream_events("hi", config, version="v3")
        async for delta in stream.text:
            seen.append(delta)
            if len(seen) == 2:
                gate.open.set()
        return {"messages": [await stream]}

    graph = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
    async with open_stream(graph, ASKED) as run:
        texts = [item.delta async for _, item in run.interleave("text")]
    assert seen == texts == ["one ", "two ", "three"]


async def test_an_error_after_deltas_closes_the_model() -> None:
    model = Chunks(chunks=["one ", "two"], error=OSError("broken"))
    async with open_stream(graph_of(model), ASKED) as run:
        seen = []
        with pytest.raises(OSError, match="broken"):
            async for _, item in run.interleave("text"):
                seen.append(item.delta)
    assert seen == ["one ", "two"]
    assert model.closed == ["closed"]


class Inline(BaseCallbackHandler):
    run_inline = True

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event["event"])


class InATask(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event["event"])


class InAThread(Inline):
    run_inline = False


@pytest.mark.parametrize("kind", (Inline, InATask, InAThread))
async def test_other_handlers_are_told_too(kind: Any) -> None:
    handler = kind()
    async with open_stream(graph_of(MODELS["text"]), ASKED, {"callbacks": [handler]}) as run:
        expected = [payload["event"] for payload in await payloads(run)]
    assert handler.seen == expected


class Raising(Inline):
    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        super().on_stream_event(event, **kwargs)
        raise KeyError("mine")


@pytest.mark.parametrize("raise_error", (False, True))
async def test_an_error_of_a_handler(raise_error: bool, caplog: pytest.LogCaptureFixture) -> None:
    handler = Raising()
    handler.raise_error = raise_error
    model = Chunks(chunks=["one ", "two"])
    async with open_stream(graph_of(model), ASKED, {"callbacks": [handler]}) as run:
        if raise_error:
            with pytest.raises(KeyError, match="mine"):
                await run.output
            assert len(handler.seen) == 1
        else:
            assert (await run.output)["messages"][-1].text == "one two"
    assert "Error in Raising.on_stream_event callback: KeyError('mine')" in caplog.text
    # Earlier releases make the events themselves, and leave the model to the garbage collector.
    if HAS_TOOL_CALL_DELTAS:
        assert model.closed == ["closed"]


async def test_outside_of_runs_nothing_is_changed() -> None:
    before = vars(BaseChatModel)["_aiter_v2_events"]
    async with open_stream(graph_of(MODELS["text"]), ASKED) as run:
        await run.output
    assert vars(BaseChatModel)["_aiter_v2_events"] is before
