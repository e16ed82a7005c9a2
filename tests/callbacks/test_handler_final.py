"""`AsyncFinalIteratorCallbackHandler`.

The prefix, and the final answer of an agent that calls tools.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_classic.callbacks.streaming_aiter_final_only import (
    AsyncFinalIteratorCallbackHandler as Original,
)
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from handlers import all_of
from langchain_anyio import AsyncFinalIteratorCallbackHandler, callbacks, open_stream
from langchain_anyio.callbacks._final import PrefixMatcher
from models import AStreamModel

pytestmark = pytest.mark.anyio

CALL: Any = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
TOOLS: Any = {"invocation_params": {"tools": [{"type": "function"}]}}


def result(**message: Any) -> LLMResult:
    return LLMResult(
        generations=[[ChatGeneration(message=AIMessage(**{"content": "", **message}))]]
    )


async def call(
    handler: Any, *tokens: str, parent: UUID | None = None, start: Any = None, **message: Any
) -> None:
    """One call of a model."""
    run: Any = {"run_id": uuid4(), "parent_run_id": parent}
    await handler.on_llm_start({}, [], **run, **(start or {}))
    for token in tokens:
        await handler.on_llm_new_token(token, **run)
    await handler.on_llm_end(result(**message), **run)


def cut(text: str, places: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in places})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def test_is_what_the_original_is() -> None:
    ours, original = AsyncFinalIteratorCallbackHandler(), Original()
    missing = set(vars(original)) - set(vars(ours))
    assert not missing
    for name in set(vars(original)) - {"queue", "done"}:
        assert getattr(ours, name) == getattr(original, name), name
    assert AsyncFinalIteratorCallbackHandler.__module__ == "langchain_anyio"
    assert callbacks.AsyncFinalIteratorCallbackHandler is AsyncFinalIteratorCallbackHandler


# The prefix

TOKENS = st.sampled_from(
    ["Final", " Final", "Answer", " Answer ", ":", ": ", "x", " ", "\n", "Fin"]
)


@given(
    tokens=st.lists(TOKENS, max_size=12),
    strip=st.booleans(),
    show=st.booleans(),
    prefix=st.sampled_from([None, ["Answer", ":"], ["x", "x"], ["Final", " Answer", ":"]]),
)
def test_as_the_original_where_tokens_are_cut_as_the_prefix_is(
    tokens: list[str], strip: bool, show: bool, prefix: Any
) -> None:
    """Up to what the original loses.

    It finds the prefix in whole tokens alone, and drops its later occurrences.
    """
    arguments: Any = {
        "answer_prefix_tokens": prefix,
        "strip_tokens": strip,
        "stream_prefix": show,
    }
    original = Original(**arguments)
    ours = AsyncFinalIteratorCallbackHandler(**arguments)
    width = len(original.answer_prefix_tokens)

    async def said(handler: Any) -> list[str]:
        await call(handler, *tokens)
        got = []
        while not handler.queue.empty():
            got.append(handler.queue.get_nowait())
        return got

    ends = [
        end
        for end in range(width, len(tokens) + 1)
        if [token.strip() if strip else token for token in tokens[end - width : end]]
        == original.answer_prefix_tokens_stripped
    ]
    got = anyio.run(said, ours)
    if not ends:
        assert anyio.run(said, original) == []
        return
    found = PrefixMatcher("".join(original.answer_prefix_tokens), strip=strip)
    if any(found.feed(token) for token in tokens[: ends[0] - 1]):
        return  # ours has found it, in other pieces, before the original has
    if len(ends) == 1:
        assert got == anyio.run(said, original)
    else:
        assert got == (tokens[ends[0] - width :] if show else tokens[ends[0] :])


@given(
    before=st.text("Final Answer:x \n", max_size=20),
    after=st.text("Final Answer:x", min_size=1, max_size=20),
    places=st.lists(st.integers(0, 60), max_size=12),
    show=st.booleans(),
)
def test_the_prefix_is_found_however_it_is_cut(
    before: str, after: str, places: list[int], show: bool
) -> None:
    prefix = "Final Answer:"
    if prefix.replace(" ", "") in "".join((before + prefix[:-1]).split()):
        return
    after = after.lstrip() or "x"
    tokens = cut(before + prefix + after, places)

    async def main() -> None:
        handler = AsyncFinalIteratorCallbackHandler(stream_prefix=show)
        await call(handler, *tokens)
        got = "".join(await all_of(handler.aiter()))
        assert handler.answer_reached
        assert (got.lstrip() if show else got) == (prefix + after if show else after)

    anyio.run(main)


@given(
    text=st.text("ab ", max_size=30),
    prefix=st.text("ab ", min_size=1, max_size=6),
    places=st.lists(st.integers(0, 30), max_size=8),
    strip=st.booleans(),
)
def test_the_matcher_finds_what_a_search_finds(
    text: str, prefix: str, places: list[int], strip: bool
) -> None:
    wanted = "".join(prefix.split()) if strip else prefix
    if not wanted:
        return
    matcher = PrefixMatcher(prefix, strip=strip)
    said = ""
    for token in cut(text, places):
        found = matcher.feed(token)
        said += token
        seen = "".join(said.split()) if strip else said
        assert (found is not None) == (wanted in seen)
        if found is not None:
            pieces, rest = found
            joined = "".join(pieces)
            assert said.endswith(joined + rest)
            assert ("".join(joined.split()) if strip else joined) == wanted
            return


async def test_nothing_without_the_prefix_and_each_call_begins_anew() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    chain = uuid4()
    await handler.on_chain_start({}, {}, run_id=chain)
    await call(handler, "Final", "Answer", parent=chain)
    await call(handler, ":", "no", parent=chain)
    await call(handler, "x Final Answer: 4", "2", parent=chain)
    await handler.on_chain_end({}, run_id=chain)
    assert await all_of(handler.aiter()) == [" 4", "2"]


async def test_the_prefix_as_it_was_said() -> None:
    handler = AsyncFinalIteratorCallbackHandler(stream_prefix=True)
    await call(handler, "So. Final", " Answer: y")
    assert await all_of(handler.aiter()) == ["Final", " Answer:", " y"]


async def test_an_empty_prefix_is_there_from_the_start() -> None:
    handler = AsyncFinalIteratorCallbackHandler(answer_prefix_tokens=[" "])
    await call(handler, "a", "b")
    assert await all_of(handler.aiter()) == ["a", "b"]


async def test_a_later_occurrence_is_part_of_the_answer() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    await call(handler, "Final Answer:", " say ", "Final", " Answer", ":", " twice")
    assert "".join(await all_of(handler.aiter())) == " say Final Answer: twice"


async def test_another_rule_by_a_subclass() -> None:
    class AfterTwo(AsyncFinalIteratorCallbackHandler):
        def check_if_answer_reached(self) -> bool:
            return self.last_tokens[-2:] == ["=", "="]

    handler = AfterTwo()
    await call(handler, "a", "=", "=", "b", "c")
    assert await all_of(handler.aiter()) == ["b", "c"]


async def test_parallel_calls_do_not_mix() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    runs: Any = [{"run_id": uuid4()} for _ in range(2)]
    for run in runs:
        await handler.on_llm_start({}, [], **run)
    for tokens in zip(("Final", " Answer", ": ", "a"), ("Answer", ": ", "x", "y"), strict=True):
        for token, run in zip(tokens, runs, strict=True):
            await handler.on_llm_new_token(token, **run)
    for run in runs:
        await handler.on_llm_end(result(), **run)
    assert await all_of(handler.aiter()) == ["a"]


# An agent that calls tools


@pytest.mark.parametrize("bound", (True, False))
@pytest.mark.parametrize(
    "message",
    (
        {"tool_calls": [CALL]},
        {"invalid_tool_calls": [{**CALL, "args": "{", "error": None, "type": "invalid_tool_call"}]},
        {"additional_kwargs": {"function_call": {"name": "add", "arguments": "{}"}}},
    ),
)
async def test_the_call_that_makes_no_tool_call(bound: bool, message: Any) -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    agent = uuid4()
    start = TOOLS if bound else {}
    for _ in range(2):
        await handler.on_chain_start({}, {}, run_id=agent)
        await call(handler, "I shall ", "add.", parent=agent, start=start, **message)
        await call(handler, "Once ", "more.", parent=agent, start=start, **message)
        await call(handler, "It is ", "2.", parent=agent, start=start)
        assert handler.answer_reached
        await handler.on_chain_end({}, run_id=agent)
        assert await all_of(handler.aiter()) == ["It is ", "2."]


async def test_an_answer_without_any_tool_call() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    await call(handler, "Hello", ".", start=TOOLS)
    assert await all_of(handler.aiter()) == ["Hello", "."]


async def test_models_within_tools_do_not_count() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    agent, tool = uuid4(), uuid4()
    await handler.on_chain_start({}, {}, run_id=agent)
    await call(handler, "Let me see.", parent=agent, start=TOOLS, tool_calls=[CALL])
    await handler.on_tool_start({}, "", run_id=tool, parent_run_id=agent)
    await call(handler, "a summary", parent=tool)
    await call(handler, "a sub-agent", parent=tool, start=TOOLS)
    await handler.on_tool_end("", run_id=tool, parent_run_id=agent)
    await call(handler, "a title", parent=agent)
    await call(handler, "The answer.", parent=agent, start=TOOLS)
    await handler.on_chain_end({}, run_id=agent)
    assert await all_of(handler.aiter()) == ["The answer."]


async def test_a_call_that_fails_is_no_answer() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    run: Any = {"run_id": uuid4()}
    await handler.on_llm_start({}, [], **run, **TOOLS)
    await handler.on_llm_new_token("half", **run)
    await handler.on_llm_error(ZeroDivisionError(), **run)
    await handler.on_llm_end(result(), **run)
    with pytest.raises(ZeroDivisionError):
        assert await all_of(handler.aiter()) == []


async def test_the_answer_waits_for_room() -> None:
    handler = AsyncFinalIteratorCallbackHandler(max_buffer_size=1)
    async with anyio.create_task_group() as group:

        async def speak() -> None:
            await call(handler, "a", "b", "c", start=TOOLS)

        group.start_soon(speak)
        assert await all_of(handler.aiter()) == ["a", "b", "c"]


async def test_by_open_stream() -> None:
    handler = AsyncFinalIteratorCallbackHandler()
    model = AStreamModel(words=["Hm. Fi", "nal Ans", "wer: for", "ty-two"])
    await open_stream(model, "x", {"callbacks": [handler]})
    assert await all_of(handler.aiter()) == [" for", "ty-two"]
    await open_stream(
        AStreamModel().bind(tools=[{"type": "function"}]), "x", {"callbacks": [handler]}
    )
    assert await all_of(handler.aiter()) == ["one ", "two ", "three"]
