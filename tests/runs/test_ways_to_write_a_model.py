"""Every way to write a chat model streams, and sees the same arguments as under langchain-core."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda

from langchain_anyio import open_stream
from langchain_anyio._backends.current import backend
from langchain_anyio._runs.target import resolve
from limits import HANGS
from models import (
    USAGE,
    AEventsModel,
    AGenerateModel,
    AStreamModel,
    EventsModel,
    GenerateModel,
    Model,
    Recorder,
    StreamModel,
    chunk,
)

pytestmark = pytest.mark.anyio


class Both(AStreamModel, AGenerateModel):
    """Streams, and has a whole answer too."""


STREAMING = [AStreamModel, StreamModel, AEventsModel, EventsModel]
WHOLE = [AGenerateModel, GenerateModel]


@pytest.mark.parametrize("kind", STREAMING)
async def test_streams_word_by_word(kind: type[Model]) -> None:
    async with open_stream(kind(), "hi") as stream:
        assert [delta async for delta in stream.text] == ["one ", "two ", "three"]
        message = await stream
    assert message.text == "one two three"
    assert message.response_metadata["output_version"] == "v1"


@pytest.mark.parametrize("kind", WHOLE)
async def test_a_whole_answer_is_replayed(kind: type[Model]) -> None:
    async with open_stream(kind(), "hi") as stream:
        assert [delta async for delta in stream.text] == ["one two three"]
        message = await stream
    assert message.usage_metadata == USAGE
    assert message.additional_kwargs == {"extra": 1}
    assert message.response_metadata["model_name"] == "test-1"


@pytest.mark.parametrize("kind", STREAMING + WHOLE)
async def test_awaited_alone(kind: type[Model]) -> None:
    assert (await open_stream(kind(), "hi")).text == "one two three"


@pytest.mark.parametrize("kind", STREAMING + WHOLE)
async def test_arguments_reach_the_model(kind: type[Model]) -> None:
    model = kind()
    await open_stream(model, [("system", "be"), HumanMessage("hi")], stop=["x"], temperature=0)
    (call,) = model.calls
    assert [message.type for message in call["messages"]] == ["system", "human"]
    assert call["stop"] == ["x"]
    assert call["temperature"] == 0


@pytest.mark.parametrize("kind", STREAMING + WHOLE)
async def test_tracing_only_arguments_do_not_reach_the_model(kind: type[Model]) -> None:
    model, recorder = kind(), Recorder()
    await open_stream(
        model,
        "hi",
        {"callbacks": [recorder]},
        ls_structured_output_format={
            "kwargs": {"method": "x"},
            "schema": {"title": "a", "description": "b"},
        },
    )
    assert "ls_structured_output_format" not in model.calls[0]
    start = recorder.told[0][2]
    assert start["options"]["ls_structured_output_format"]["kwargs"] == {"method": "x"}


@pytest.mark.parametrize("value", (True, "tool_calling"))
async def test_disabled_streaming_is_honoured(value: Any) -> None:
    model = Both(disable_streaming=value)
    async with open_stream(model, "hi", tools=[{"name": "t"}]) as stream:
        assert [delta async for delta in stream.text] == ["one two three"]


async def test_blocking_models_run_in_threads_and_hold_up_nobody() -> None:
    ident = threading.get_ident()
    seen = set()
    models = []
    all_in = threading.Barrier(20)

    def before(number: int) -> None:
        if number == 1:
            all_in.wait(60)  # passed only if twenty of them block at the same time
        seen.add(threading.get_ident())

    async def consume() -> None:
        model = StreamModel(before=before)
        models.append(model)
        assert (await open_stream(model, "hi")).text == "one two three"

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(consume)
            await checkpoint()
    assert ident not in seen


async def test_langchain_cores_own_fakes() -> None:
    hello = AIMessage("hello there")
    assert (await open_stream(FakeListChatModel(responses=["abc"]), "hi")).text == "abc"
    generic = GenericFakeChatModel(messages=iter([hello]))
    assert (await open_stream(generic, "hi")).text == "hello there"
    listed = FakeMessagesListChatModel(responses=[hello])
    assert (await open_stream(listed, "hi")).text == "hello there"


async def test_no_chunks_at_all() -> None:
    recorder = Recorder()
    async with open_stream(AStreamModel(words=[]), "hi", {"callbacks": [recorder]}) as stream:
        with pytest.raises(ValueError, match="No generation chunks were returned"):
            await stream
    assert recorder.ends() == ["on_llm_error"]


async def test_native_events_without_their_end() -> None:
    recorder = Recorder()
    async with open_stream(AEventsModel(cut=2), "hi", {"callbacks": [recorder]}) as stream:
        assert await stream.text == "one two three"
        await stream
    assert recorder.ends() == ["on_llm_end"]


async def test_native_error_event_is_reported_as_an_error() -> None:
    class Failing(AEventsModel):
        async def _astream_chat_model_events(self, *args: Any, **kwargs: Any) -> Any:
            yield {"event": "message-start", "id": "x"}
            yield {"event": "error", "message": "overloaded"}

    recorder = Recorder()
    async with open_stream(Failing(), "hi", {"callbacks": [recorder]}) as stream:
        with pytest.raises(RuntimeError, match="overloaded"):
            await stream
    assert recorder.ends() == ["on_llm_error"]


async def test_an_error_after_the_message_is_whole() -> None:
    class Late(AEventsModel):
        async def _astream_chat_model_events(self, *args: Any, **kwargs: Any) -> Any:
            async for event in super()._astream_chat_model_events(*args, **kwargs):
                yield event
            raise OSError("late")

    recorder = Recorder()
    async with open_stream(Late(), "hi", {"callbacks": [recorder]}) as stream:
        assert (await stream.output).text == "one two three"
        with pytest.raises(OSError, match="late"):
            await stream
    assert stream.error is None
    assert recorder.ends() == ["on_llm_error"]


async def test_bound_models() -> None:
    model = AStreamModel()
    recorder = Recorder()
    bound = model.bind(stop=["a"], temperature=1).with_config(callbacks=[recorder], tags=["t"])
    await open_stream(bound, "hi", temperature=2)
    assert model.calls[0]["stop"] == ["a"]
    assert model.calls[0]["temperature"] == 2
    assert recorder.ends() == ["on_llm_end"]
    assert "t" in recorder.told[0][2]["tags"]
    await open_stream(bound, "hi", stop=["b"])
    assert model.calls[1]["stop"] == ["b"]


async def test_configurable_models() -> None:
    field = AStreamModel().configurable_fields(words=ConfigurableField(id="words"))
    config: Any = {"configurable": {"words": ["x"]}}
    assert (await open_stream(field, "hi", config)).text == "x"
    assert (await open_stream(field.with_config(config), "hi")).text == "x"
    either = AStreamModel().configurable_alternatives(
        ConfigurableField(id="which"), default_key="a", b=StreamModel(words=["b"])
    )
    assert (await open_stream(either, "hi", {"configurable": {"which": "b"}})).text == "b"
    assert (await open_stream(either, "hi")).text == "one two three"


async def test_a_model_that_langchain_configures() -> None:
    from langchain.chat_models import init_chat_model

    configurable = init_chat_model(
        "gpt-5-mini", model_provider="openai", configurable_fields=("model",), api_key="unused"
    ).bind_tools([{"name": "t", "description": "d", "parameters": {}}])
    target = resolve(configurable, {"configurable": {"model": "gpt-5-nano"}})
    assert target.runnable.model_name == "gpt-5-nano"  # type: ignore[union-attr]
    assert target.bound["tools"]


async def test_a_sequence_that_ends_in_a_model() -> None:
    model = Both()
    recorder = Recorder()
    prompt = ChatPromptTemplate.from_messages([("human", "about {topic}")])
    chain = prompt | model.bind(stop=["z"])
    stream = open_stream(chain, {"topic": "water"}, {"callbacks": [recorder], "run_name": "mine"})
    if backend() == "trio":
        with pytest.raises(RuntimeError, match=r"ChatPromptTemplate.*enable_trio\(\)"):
            await stream
        assert recorder.names() == []
        return
    assert (await stream).text == "one two three"
    assert model.calls[0]["messages"] == [HumanMessage("about water")]
    assert model.calls[0]["stop"] == ["z"]
    expected = Recorder()
    await chain.ainvoke({"topic": "water"}, {"callbacks": [expected], "run_name": "mine"})

    def outline(record: Recorder) -> list[Any]:
        run_ids = list(dict.fromkeys(kwargs["run_id"] for _, _, kwargs in record.told))
        return [
            (
                name,
                kwargs.get("name"),
                kwargs["tags"],
                run_ids.index(kwargs["run_id"]),
                kwargs["parent_run_id"] and run_ids.index(kwargs["parent_run_id"]),
            )
            for name, _, kwargs in record.told
            if name not in ("on_stream_event", "on_llm_new_token")
        ]

    assert outline(recorder) == outline(expected)


async def test_steps_of_a_sequence_find_their_run() -> None:
    told = []

    class Custom(Recorder):
        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            told.append((name, data))

    async def step(value: str) -> str:
        await adispatch_custom_event("seen", value)
        return value + "!"

    chain = RunnableLambda(step) | AStreamModel()
    stream = open_stream(chain, "hi", {"callbacks": [Custom()]})
    if backend() == "trio":
        with pytest.raises(RuntimeError, match=r"enable_trio\(\)"):
            await stream
        return
    await stream
    assert told == [("seen", "hi")]


@pytest.mark.parametrize(
    "wrong",
    (
        "gpt-4",
        None,
        AStreamModel,
        AStreamModel() | StrOutputParser(),
        (AStreamModel() | StrOutputParser()).with_retry(),
        AStreamModel().with_fallbacks([RunnableLambda(lambda value: value)]),
        RunnableLambda(lambda value: value),
    ),
    ids=lambda wrong: type(wrong).__name__,
)
async def test_anything_else_is_refused_at_the_call(wrong: Any) -> None:
    with pytest.raises(TypeError, match="model must be a chat model"):
        open_stream(wrong, "hi")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    (
        ({"input": 5}, TypeError, "input must be"),
        ({"config": "x"}, TypeError, "config must be"),
        ({"stop": "x"}, TypeError, "stop must be a list"),
        ({"stop": [1]}, TypeError, "stop must be a list"),
        ({"max_buffer_size": 0}, ValueError, "max_buffer_size must be 1 or more"),
        ({"max_buffer_size": 1.5}, TypeError, "max_buffer_size must be an int"),
        ({"max_buffer_size": True}, TypeError, "max_buffer_size must be an int"),
        ({"replay": 1}, TypeError, "replay must be a bool"),
        ({"chunk_timeout": 0}, ValueError, "chunk_timeout must be more than 0"),
        ({"chunk_timeout": "1"}, TypeError, "chunk_timeout must be a number"),
        ({"chunk_timeout": float("nan")}, ValueError, "chunk_timeout must be more than 0"),
        ({"version": "v3"}, TypeError, "open_stream has no version"),
    ),
)
async def test_arguments_are_checked_at_the_call(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        open_stream(AStreamModel(), **{"input": "hi", **arguments})


async def test_the_rate_limiter_is_waited_for() -> None:
    class Limiter(InMemoryRateLimiter):
        asked = 0

        async def aacquire(self, *, blocking: bool = True) -> bool:
            assert not blocking
            self.asked += 1
            return self.asked > 3

    limiter = Limiter(check_every_n_seconds=0.001)
    model = AStreamModel(rate_limiter=limiter)
    assert (await open_stream(model, "hi")).text == "one two three"
    assert limiter.asked == 4


async def test_a_message_that_is_no_chunk_is_ignored() -> None:
    class Odd(AStreamModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            yield chunk("a")
            from langchain_core.messages import HumanMessageChunk
            from langchain_core.outputs import ChatGenerationChunk

            yield ChatGenerationChunk(message=HumanMessageChunk(content="not mine"))

    assert (await open_stream(Odd(), "hi")).text == "a"
