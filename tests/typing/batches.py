"""Types of deltas: of `interleave()` by their names; of `batches()`, strings of text or lists."""

# mypy: disable-error-code="unused-awaitable"
# pyright: basic, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from langchain_protocol.protocol import MessagesData, ToolCallChunk
from typing_extensions import assert_type

from langchain_anyio import (
    AsyncChatModelStream,
    AsyncIteratorCallbackHandler,
    AsyncProjection,
    AsyncTextProjection,
    GraphStream,
)
from langchain_anyio.langgraph import (
    RunCustom,
    RunInterrupt,
    RunState,
    RunText,
    RunToolCall,
    ToolDelta,
    ToolFailure,
    ToolResult,
    ToolRun,
)


async def projections(numbers: AsyncProjection[int, str], text: AsyncTextProjection) -> None:
    async for batch in numbers.batches():
        assert_type(batch, list[int])
    async for piece in text.batches(interval=0.05):
        assert_type(piece, str)
    numbers.batches("1")  # type: ignore[arg-type]
    text.batches(None)  # type: ignore[arg-type]


async def streams(stream: AsyncChatModelStream) -> None:
    async for text in stream.text.batches():
        assert_type(text, str)
    async for reasoning in stream.reasoning.batches(1):
        assert_type(reasoning, str)
    async for calls in stream.tool_calls.batches():
        assert_type(calls, list[ToolCallChunk])
    async for events in stream.events.batches():
        assert_type(events, list[MessagesData])
    async for batch in stream.interleave().batches():
        for delta in batch:
            if delta[0] == "tool_calls":
                assert_type(delta[1], ToolCallChunk)
            else:
                assert_type(delta[1], str)


async def interleaved(stream: AsyncChatModelStream) -> None:
    async for item in stream.interleave():
        if item[0] == "text":
            assert_type(item[1], str)
        match item:
            case ("tool_calls", chunk):
                assert_type(chunk, ToolCallChunk)
            case (_, text):
                assert_type(text, str)
    async for name, delta in stream.interleave("reasoning", "text"):
        assert_type(name, Literal["text", "reasoning"])
        assert_type(delta, str)
    async for _, part in stream.interleave("tool_calls"):
        assert_type(part, ToolCallChunk)
    async for _, either in stream.interleave("text", "tool_calls"):
        assert_type(either, str | ToolCallChunk)
    async for batch in stream.interleave("text").batches():
        assert_type("".join(text for _, text in batch), str)
    stream.interleave("usage")  # type: ignore[call-overload]


async def graphs(stream: GraphStream) -> None:
    async for states in stream.values.batches():
        assert_type(states, list[dict[str, Any]])


async def interleaved_runs(run: GraphStream) -> None:
    async for pair in run.interleave():
        if pair[0] == "text":
            assert_type(pair[1], RunText)
        elif pair[0] == "tool_results":
            assert_type(pair[1], ToolResult)
        match pair:
            case ("tool_calls", call):
                assert_type(call, RunToolCall)
                assert_type(call.delta, ToolCallChunk)
            case ("tool_starts", tool):
                assert_type(tool, ToolRun)
            case ("tool_errors", failure):
                assert_type(failure.error, str)
            case ("interrupts", interrupt):
                assert_type(interrupt, RunInterrupt)
            case ("text" | "reasoning", text):
                assert_type(text.delta, str)
                assert_type(text.message, AsyncChatModelStream)
    async for _, either in run.interleave("text", "tool_results"):
        if isinstance(either, ToolResult):
            assert_type(either.tool, ToolRun)
    async for name, part in run.interleave("reasoning", "text"):
        assert_type(name, Literal["reasoning", "text"])
        assert_type(part, RunText)
    async for _, result in run.interleave("tool_results"):
        assert_type(result, ToolResult)
    async for _, state in run.interleave("values"):
        assert_type(state, RunState)
    async for _, custom in run.interleave("custom"):
        assert_type(custom, RunCustom)
    async for _, delta in run.interleave("tool_deltas"):
        assert_type(delta, ToolDelta)
    async for _, error in run.interleave("tool_errors"):
        assert_type(error, ToolFailure)
    async for batch in run.interleave("text").batches(0.05):
        assert_type("".join(text.delta for _, text in batch), str)
    run.interleave("messages")  # type: ignore[call-overload]


async def handlers(handler: AsyncIteratorCallbackHandler) -> None:
    async for text in handler.aiter().batches(0.05):
        assert_type(text, str)
    async for tokens in handler.runs().batches():
        assert_type(tokens, list[tuple[UUID, str]])
