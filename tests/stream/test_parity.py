"""What handlers, tracers and consumers see of a run, beside what langchain-core shows them on asyncio.

langchain-core's side is recorded on an asyncio loop of its own, whatever backend the test runs on.
"""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from langchain_anyio import open_stream
from langchain_anyio._backends.current import backend
from models import (
    AEventsModel,
    AStreamModel,
    AsyncRecorder,
    Recorder,
    StreamModel,
    chunk,
)
from test_accumulator import newest

pytestmark = pytest.mark.anyio

Use = Callable[[Any], Any]


async def under_langchain_core(
    model: Any, input: Any, config: Any = None, **kwargs: Any
) -> tuple[Any, Any]:
    """Return the message or the error of `astream_events(version="v3")`."""

    async def main() -> tuple[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # v3 is beta
            stream = await model.astream_events(input, config, version="v3", **kwargs)
        try:
            return await stream, [event async for event in stream]
        except Exception as exc:
            # Nobody there waits for the callbacks of an error.
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
            return exc, None

    return await anyio.to_thread.run_sync(lambda: asyncio.run(main()))


async def under_open_stream(
    model: Any, input: Any, config: Any = None, **kwargs: Any
) -> tuple[Any, Any]:
    async with open_stream(model, input, config, **kwargs) as stream:
        try:
            return await stream, [event async for event in stream]
        except Exception as exc:
            return exc, None


def plain(value: Any, ids: list[UUID]) -> Any:
    """Make what two runs were told comparable: run ids by the order in which they came."""
    if isinstance(value, dict):
        return {key: plain(item, ids) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, ids) for item in value]
    if isinstance(value, UUID):
        if value not in ids:
            ids.append(value)
        return f"run {ids.index(value)}"
    if isinstance(value, BaseException):
        return repr(value)
    if isinstance(value, str):
        for run_id in ids:
            value = value.replace(str(run_id), f"run {ids.index(run_id)}")
        return value
    if hasattr(value, "model_dump"):
        return [type(value).__name__, plain(value.model_dump(), ids)]
    return value


def told(recorder: Any) -> Any:
    return plain(recorder.told, [])


class Broken(AStreamModel):
    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        async for piece in super()._astream(*args, **kwargs):
            yield piece
        raise OSError("broken")


class Rich(AStreamModel):
    async def _astream(self, messages: Any, stop: Any = None, **kwargs: Any) -> Any:
        yield chunk("", response_metadata={"model_provider": "openai", "model_name": "m"})
        yield chunk("hi ", id="theirs")
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                tool_call_chunks=[
                    {"type": "tool_call_chunk", "name": "t", "args": '{"a"', "id": "c", "index": 0}
                ],
            )
        )
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                tool_call_chunks=[
                    {
                        "type": "tool_call_chunk",
                        "name": None,
                        "args": ": 1}",
                        "id": None,
                        "index": 0,
                    }
                ],
            )
        )
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            ),
            generation_info={"finish_reason": "tool_calls"},
        )


MODELS: dict[str, Callable[[], Any]] = {
    "astream": lambda: AStreamModel(tell=True),
    "stream": lambda: StreamModel(tell=True),
    "events": AEventsModel,
    "broken": lambda: Broken(tell=True),
    "empty": lambda: AStreamModel(words=[]),
    "rich": Rich,
    "tagged": lambda: AStreamModel(tags=["own"], metadata={"own": 1}, name="named"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=newest if name == "rich" else ()) for name in MODELS]
)
@pytest.mark.parametrize("kind", (Recorder, AsyncRecorder))
@pytest.mark.parametrize("inline", (False, True))
async def test_handlers_are_told_the_same(name: str, kind: Any, inline: bool) -> None:
    run_id = uuid4()
    outcomes, records = [], []
    for run in (under_langchain_core, under_open_stream):
        inherited, local = kind(), kind()
        inherited.run_inline = local.run_inline = inline
        model = MODELS[name]()
        model.callbacks = [local]
        config = {
            "callbacks": [inherited],
            "tags": ["t"],
            "metadata": {"m": 1},
            "run_name": "mine",
            "run_id": run_id,
        }
        outcomes.append(
            plain(
                await run(model, [("human", "hi")], config, stop=["x"], temperature=0.5), [run_id]
            )
        )
        records.append((told(inherited), told(local)))
    assert outcomes[0] == outcomes[1]
    assert records[0] == records[1]
    assert len(records[0][0]) > 1


async def test_run_inline_runs_on_the_event_loop_and_the_others_do_not() -> None:
    inline, threaded = Recorder(), Recorder()
    inline.run_inline = True
    await open_stream(AStreamModel(), "hi", {"callbacks": [inline, threaded]})
    import threading

    assert inline.threads == {threading.get_ident()}
    assert threading.get_ident() not in threaded.threads


class Tracer(BaseTracer):
    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)


@pytest.mark.parametrize("name", ("astream", "broken", "rich"))
async def test_tracers_see_the_same(name: str) -> None:
    run_id = uuid4()
    seen = []
    for run in (under_langchain_core, under_open_stream):
        tracer = Tracer()
        await run(MODELS[name](), "hi", {"callbacks": [tracer], "run_id": run_id})
        (trace,) = tracer.runs
        seen.append(
            plain(
                {
                    "name": trace.name,
                    "inputs": trace.inputs,
                    "outputs": trace.outputs,
                    "error": trace.error and trace.error.splitlines()[0],
                    "extra": trace.extra,
                    "tags": trace.tags,
                    "events": [event["name"] for event in trace.events],
                },
                [run_id],
            )
        )
    assert seen[0] == seen[1]


async def test_the_tracer_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.tracers.context import tracing_v2_callback_var
    from langchain_core.tracers.langchain import LangChainTracer

    started = []

    class Mine(LangChainTracer):
        def _on_chat_model_start(self, run: Run) -> None:
            started.append(run.name)

        def _on_llm_end(self, run: Run) -> None:
            started.append("end")

        def _persist_run(self, run: Run) -> None:
            pass

        def copy_with_metadata_defaults(self, **kwargs: Any) -> Any:
            return self

    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "true")
    monkeypatch.setenv("LANGSMITH_API_KEY", "none")
    token = tracing_v2_callback_var.set(Mine(client=object()))  # type: ignore[arg-type]
    try:
        await open_stream(AStreamModel(), "hi")
    finally:
        tracing_v2_callback_var.reset(token)
    assert started == ["AStreamModel", "end"]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", (Recorder, AsyncRecorder))
async def test_context_variables_reach_handlers_and_models(kind: Any) -> None:
    seen = set()

    async def before(number: int) -> None:
        seen.add(("model", variable.get()))

    def react(name: str) -> None:
        seen.add((name, variable.get()))
        variable.set("changed by the handler")

    variable.set("mine")
    await open_stream(AStreamModel(before=before), "hi", {"callbacks": [kind(react)]})
    assert {value for _, value in seen} == {"mine"}
    assert {name for name, _ in seen} == {
        "model",
        "on_chat_model_start",
        "on_stream_event",
        "on_llm_end",
    }
    assert variable.get() == "mine"


async def test_a_handler_written_for_prompts_gets_them() -> None:
    from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler

    prompts = []

    class Old(BaseCallbackHandler):
        def on_llm_start(self, serialized: Any, texts: list[str], **kwargs: Any) -> None:
            prompts.extend(texts)

    class AsyncOld(AsyncCallbackHandler):
        async def on_llm_start(self, serialized: Any, texts: list[str], **kwargs: Any) -> None:
            prompts.extend(texts)

    await open_stream(AStreamModel(), "hi", {"callbacks": [Old(), AsyncOld()]})
    assert prompts == ["Human: hi", "Human: hi"]


async def test_a_handler_that_uses_asyncio_is_told_what_it_needs(caplog: Any) -> None:
    async def react() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    recorder = AsyncRecorder(lambda name: react() if name == "on_llm_end" else None)
    await open_stream(AStreamModel(), "hi", {"callbacks": [recorder]})
    if backend() == "trio":
        assert "on trio needs langchain_anyio.enable_trio()" in caplog.text
    else:
        assert not caplog.records


async def test_the_users_arguments_are_left_as_they_are() -> None:
    config: Any = {"run_id": uuid4(), "callbacks": [], "tags": ["a"]}
    before = dict(config)
    messages: list[BaseMessage] = [AIMessage("x")]
    await open_stream(AStreamModel(), messages, config)
    assert config == before
    assert messages == [AIMessage("x")]


class Interrupted(AStreamModel):
    """Streams plain text that anything else interrupts: reasoning, blocks of other indexes, nothing at all."""

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        def blocks(*blocks: Any) -> Any:
            return chunk(list(blocks))

        for text in ("one ", "two ", "", "three"):
            yield chunk(text)
        yield blocks({"type": "reasoning", "reasoning": "hm", "index": 7})
        for index in (3, 4, 3):
            yield blocks({"type": "text", "text": f"at {index} ", "index": index})
        yield chunk("four ", response_metadata={"model_name": "m"})
        for _ in range(600):
            yield chunk("more ", response_metadata={"model_name": "m"})
        yield chunk("", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3})


async def test_events_that_nobody_is_told_of_are_the_same() -> None:
    """Those of plain text are made only when they are read."""
    named: Any = {"run_id": uuid4()}
    model = Interrupted()
    expected = await under_langchain_core(model, "hi", named)
    for config in (named, {**named, "callbacks": [AsyncRecorder()]}):
        message, events = await under_open_stream(model, "hi", config)
        assert events == expected[1]
        assert message.content == expected[0].content
        async with open_stream(model, "hi", config) as stream:
            assert await stream.events == expected[1]
            assert (await stream.text).count("more ") == 600
        async with open_stream(model, "hi", config, replay=False) as stream:
            seen = [event async for event in stream]
            assert seen == expected[1]
