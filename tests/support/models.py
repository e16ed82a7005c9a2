"""Chat models and handlers that tests run: each way to write one, and one that records what it is told."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field


def chunk(text: str, **kwargs: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=text, **kwargs))


class Model(BaseChatModel):
    """What all of them have: words to say, and a record of how they were called and left."""

    words: list[str] = Field(default_factory=lambda: ["one ", "two ", "three"])
    calls: list[dict[str, Any]] = Field(default_factory=list)
    trace: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "test"

    def _note(self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> None:
        self.calls.append({"messages": messages, "stop": stop, **kwargs})

    def _answer(self) -> ChatResult:
        message = AIMessage(
            content="".join(self.words), usage_metadata=USAGE, additional_kwargs={"extra": 1}
        )
        return ChatResult(
            generations=[ChatGeneration(message=message)], llm_output={"model_name": "test-1"}
        )

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        raise AssertionError("the model was asked for its answer in the wrong way")


USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


class AStreamModel(Model):
    """Streams natively. `before` is awaited before each word, and is told its number."""

    before: Callable[[int], Any] | None = Field(default=None, exclude=True)
    tell: bool = False

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs)
        try:
            for number, word in enumerate(self.words):
                if self.before is not None:
                    await self.before(number)
                piece = chunk(word)
                if self.tell:
                    await run_manager.on_llm_new_token(word, chunk=piece)
                self.trace.append(f"chunk {number}")
                yield piece
        finally:
            self.trace.append("closed")


class StreamModel(Model):
    """Streams in a blocking way. `before` is called before each word, and is told its number."""

    before: Callable[[int], Any] | None = Field(default=None, exclude=True)
    tell: bool = False

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._note(messages, stop, kwargs)
        try:
            for number, word in enumerate(self.words):
                if self.before is not None:
                    self.before(number)
                piece = chunk(word)
                if self.tell:
                    run_manager.on_llm_new_token(word, chunk=piece)
                self.trace.append(f"chunk {number}")
                yield piece
        finally:
            self.trace.append("closed")


class AGenerateModel(Model):
    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._note(messages, stop, kwargs)
        await anyio.sleep(0)
        return self._answer()


class GenerateModel(Model):
    before: Callable[[], Any] | None = Field(default=None, exclude=True)

    def _generate(self, messages: Any, stop: Any = None, **kwargs: Any) -> ChatResult:
        self._note(messages, stop, kwargs)
        if self.before is not None:
            self.before()
        return self._answer()


def events_of(words: list[str]) -> Iterator[dict[str, Any]]:
    yield {"event": "message-start", "role": "ai", "id": "native-1"}
    yield {"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}}
    for word in words:
        delta = {"type": "text-delta", "text": word}
        yield {"event": "content-block-delta", "index": 0, "delta": delta}
    text = {"type": "text", "text": "".join(words)}
    yield {"event": "content-block-finish", "index": 0, "content": text}
    yield {"event": "message-finish", "metadata": {"finish_reason": "stop"}}


class AEventsModel(Model):
    """Produces events natively; `cut` leaves that many of the last ones out."""

    cut: int = 0

    async def _astream_chat_model_events(
        self, messages: Any, *, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        self._note(messages, stop, kwargs)
        events = list(events_of(self.words))
        for event in events[: len(events) - self.cut]:
            yield event


class EventsModel(Model):
    def _stream_chat_model_events(
        self, messages: Any, *, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        self._note(messages, stop, kwargs)
        yield from events_of(self.words)


class Gate:
    """Holds a model back before the word of that number, and tells that it got there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reached = anyio.Event()
        self.open = anyio.Event()

    async def __call__(self, number: int) -> None:
        if number == self.number:
            self.reached.set()
            await self.open.wait()


class ThreadGate:
    """The same for a model in a worker thread."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, number: int = 0) -> None:
        if number == self.number:
            self.reached.set()
            assert self.open.wait(20)


EVENTS = (
    "on_chat_model_start",
    "on_llm_start",
    "on_llm_new_token",
    "on_stream_event",
    "on_llm_end",
    "on_llm_error",
    "on_chain_start",
    "on_chain_end",
    "on_chain_error",
)


def _recording(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        self.told.append((name, args, kwargs))
        self.threads.add(threading.get_ident())
        self.react(name)

    return method


def _async_recording(name: str) -> Any:
    async def method(self: Any, *args: Any, **kwargs: Any) -> None:
        self.told.append((name, args, kwargs))
        await anyio.sleep(0)
        result = self.react(name)
        if result is not None:
            await result

    return method


class _Record:
    """What a recording handler has been told: `(event, args, kwargs)` in order."""

    def __init__(self, react: Callable[[str], Any] = lambda name: None) -> None:
        self.told: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.threads: set[int] = set()
        self.react = react

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the same in two runs, in what a model says of itself

    def names(self) -> list[str]:
        return [name for name, _, _ in self.told]

    def ends(self) -> list[str]:
        return [name for name in self.names() if name in ("on_llm_end", "on_llm_error")]


class Recorder(_Record, BaseCallbackHandler):
    """A sync handler that records."""

    locals().update({name: _recording(name) for name in EVENTS if name != "on_llm_start"})


class AsyncRecorder(_Record, AsyncCallbackHandler):
    """An async handler that records."""

    locals().update({name: _async_recording(name) for name in EVENTS if name != "on_llm_start"})
