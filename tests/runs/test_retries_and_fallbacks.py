"""`with_retry()` and `with_fallbacks()`: another attempt is made until the first event has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.runnables.retry import RunnableRetry
from pydantic import Field

from langchain_anyio import (
    AsyncIteratorCallbackHandler,
    StreamCancelledError,
    StreamStalledError,
    disable_trio,
    enable_trio,
    open_stream,
)
from models import AGenerateModel, AStreamModel, GenerateModel, StreamModel

pytestmark = pytest.mark.anyio

PROMPT = ChatPromptTemplate.from_messages([("human", "{question}")])


class Flaky:
    """Raises the next of its errors at each attempt, before the word of that number."""

    def __init__(self, *errors: BaseException, number: int = 0) -> None:
        self.errors = list(errors)
        self.number = number
        self.attempts = 0

    def fail(self, number: int = 0) -> None:
        self.attempts += number == 0
        if number == self.number and self.errors:
            raise self.errors.pop(0)

    async def afail(self, number: int = 0) -> None:
        self.fail(number)


class Both(AStreamModel):
    """Streams, and gives a whole answer to `ainvoke()`."""

    async def _agenerate(self, messages: Any, stop: Any = None, **kwargs: Any) -> Any:
        self._note(messages, stop, kwargs)
        if self.before is not None:
            await self.before(0)
        return self._answer()


def streaming(flaky: Flaky, *words: str) -> AStreamModel:
    return Both(before=flaky.afail, words=list(words or ("one ", "two")))


def retried(model: Runnable[Any, Any], **kwargs: Any) -> Runnable[Any, Any]:
    return model.with_retry(wait_exponential_jitter=False, **kwargs)


async def read(runnable: Any, input: Any = "hi", **kwargs: Any) -> tuple[list[str], str]:
    async with open_stream(runnable, input, **kwargs) as stream:
        deltas = [delta async for delta in stream.text]
        return deltas, (await stream).text


async def test_a_model_that_fails_is_tried_again() -> None:
    flaky = Flaky(OSError("first"), OSError("second"))
    model = streaming(flaky)
    assert await read(retried(model)) == (["one ", "two"], "one two")
    assert flaky.attempts == 3
    assert model.trace == ["closed", "closed", "chunk 0", "chunk 1", "closed"]


async def test_the_last_error_is_raised_after_the_last_attempt() -> None:
    errors = [OSError("first"), OSError("second"), OSError("third")]
    flaky = Flaky(*errors)
    with pytest.raises(OSError, match="second") as caught:
        await read(retried(streaming(flaky), stop_after_attempt=2))
    assert caught.value is errors[1]
    assert flaky.attempts == 2


async def test_nothing_is_tried_again_after_the_first_event() -> None:
    flaky = Flaky(OSError("late"), number=1)
    async with open_stream(retried(streaming(flaky)), "hi") as stream:
        deltas = []
        with pytest.raises(OSError, match="late"):
            async for delta in stream.text:
                deltas.append(delta)
    assert deltas == ["one "]
    assert flaky.attempts == 1


@pytest.mark.parametrize(
    "choice", ((OSError,), lambda error: isinstance(error, OSError)), ids=("types", "predicate")
)
async def test_other_errors_are_raised_at_once(choice: Any) -> None:
    accepted = RunnableRetry.model_fields["retry_exception_types"].annotation
    if not isinstance(choice, tuple) and "Callable" not in str(accepted):
        pytest.skip("this release of langchain-core takes types alone")
    flaky = Flaky(OSError("first"), KeyError("other"))
    with pytest.raises(KeyError, match="other"):
        await read(retried(streaming(flaky), retry_if_exception_type=choice))
    assert flaky.attempts == 2


@pytest.mark.parametrize("kind", (AGenerateModel, GenerateModel, StreamModel))
async def test_models_of_every_kind(kind: type[Any]) -> None:
    flaky = Flaky(OSError("first"))

    class Failing(kind):  # type: ignore[misc]
        def _note(self, *args: Any) -> None:
            flaky.fail()
            super()._note(*args)

    _, text = await read(retried(Failing()))
    assert text == "one two three"
    assert flaky.attempts == 2


async def test_fallbacks_are_tried_in_order() -> None:
    first, second, third = Flaky(OSError("a")), Flaky(OSError("b")), Flaky()
    models = [streaming(second), streaming(third, "third")]
    deltas, text = await read(streaming(first).with_fallbacks(models))
    assert (deltas, text) == (["third"], "third")
    assert [flaky.attempts for flaky in (first, second, third)] == [1, 1, 1]


async def test_the_first_error_is_raised_if_all_fail() -> None:
    error = OSError("a")
    chain = streaming(Flaky(error)).with_fallbacks([streaming(Flaky(OSError("b")))])
    with pytest.raises(OSError, match="a") as caught:
        await read(chain)
    assert caught.value is error


async def test_fallbacks_handle_only_their_exceptions() -> None:
    spare = Flaky()
    chain = streaming(Flaky(KeyError("mine"))).with_fallbacks(
        [streaming(spare)], exceptions_to_handle=(OSError,)
    )
    with pytest.raises(KeyError, match="mine"):
        await read(chain)
    assert spare.attempts == 0


async def test_no_fallback_after_the_first_event() -> None:
    spare = Flaky()
    chain = streaming(Flaky(OSError("late"), number=1)).with_fallbacks([streaming(spare)])
    with pytest.raises(OSError, match="late"):
        await read(chain)
    assert spare.attempts == 0


@pytest.fixture
def enabled(anyio_backend_name: str) -> Iterator[None]:
    if anyio_backend_name == "trio":
        enable_trio()
    yield
    disable_trio()


@pytest.mark.usefixtures("enabled")
async def test_the_exception_is_put_into_the_input() -> None:
    error = OSError("a")
    seen: list[Any] = []
    see = RunnableLambda(lambda value: seen.append(value) or value["question"])
    chain = (see | streaming(Flaky(error))).with_fallbacks(
        [see | streaming(Flaky(), "well")], exception_key="error"
    )
    question = {"question": "why"}
    assert await read(chain, question) == (["well"], "well")
    assert seen == [{"question": "why"}, {"question": "why", "error": error}]
    assert question == {"question": "why"}


async def test_an_exception_key_needs_a_dict() -> None:
    chain = streaming(Flaky()).with_fallbacks([], exception_key="error")
    with pytest.raises(ValueError, match=r"exception_key='error'.* needs a dict .* not a str"):
        await read(chain)


async def test_bound_arguments_of_each_layer_reach_the_model() -> None:
    model = streaming(Flaky(OSError("a")))
    chain = retried(model.bind(stop=["x"], depth=1)).bind(depth=2).with_fallbacks([])
    await read(chain, seed=3)
    assert [{k: call[k] for k in ("stop", "depth", "seed")} for call in model.calls] == [
        {"stop": ["x"], "depth": 2, "seed": 3}
    ] * 2


class Tree(AsyncCallbackHandler):
    """The runs that it sees: name, tags and the name of the parent; how each ended."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.seen: list[tuple[Any, ...]] = []

    def _start(self, name: str, run_id: Any, parent_run_id: Any, tags: Any) -> None:
        self.names[run_id] = name
        self.seen.append(("start", name, self.names.get(parent_run_id), tags))

    async def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self._start(kwargs["name"], kwargs["run_id"], kwargs["parent_run_id"], kwargs["tags"])

    async def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._start("model", kwargs["run_id"], kwargs["parent_run_id"], kwargs["tags"])

    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.seen.append(("end", self.names[kwargs["run_id"]]))

    async def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.seen.append(("end", self.names[kwargs["run_id"]]))

    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", self.names[kwargs["run_id"]], repr(error)))

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", self.names[kwargs["run_id"]], repr(error)))


def _sequence(model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return RunnablePassthrough() | model


SHAPES: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "retry": lambda flaky: retried(flaky(OSError("a"), OSError("b"))),
    "retry that fails": lambda flaky: retried(
        flaky(OSError("a"), OSError("b")), stop_after_attempt=2
    ),
    "fallbacks": lambda flaky: flaky(OSError("a")).with_fallbacks([flaky()]),
    "fallbacks that fail": lambda flaky: flaky(OSError("a")).with_fallbacks([flaky(KeyError("b"))]),
    "retry at the end of a sequence": lambda flaky: _sequence(retried(flaky(OSError("a")))),
    "retry of a sequence": lambda flaky: retried(_sequence(flaky(OSError("a")))),
    "fallbacks of retries": lambda flaky: retried(
        flaky(OSError("a"), OSError("b")), stop_after_attempt=2
    ).with_fallbacks([retried(flaky(OSError("c")))]),
    "retries of fallbacks": lambda flaky: retried(
        flaky(OSError("a"), OSError("b")).with_fallbacks([flaky(OSError("c"))])
    ),
    "a sequence in fallbacks": lambda flaky: _sequence(flaky(OSError("a"))).with_fallbacks(
        [_sequence(flaky())]
    ),
    "named and tagged": lambda flaky: retried(flaky(OSError("a"))).with_config(
        run_name="mine", tags=["t"]
    ),
}


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("shape", SHAPES)
async def test_handlers_see_the_runs_that_langchain_core_shows(shape: str) -> None:
    def made() -> Any:
        return SHAPES[shape](lambda *errors: streaming(Flaky(*errors)))

    ours, theirs = Tree(), Tree()
    outcomes = []
    # `ainvoke()` of fallbacks gives the models its own parent and tags; `astream()` does not retry.
    by_steps = "fallbacks" in shape and "retr" not in shape

    async def original(config: Any) -> None:
        if not by_steps:
            await made().ainvoke("hi", config)
        else:
            async for _ in made().astream("hi", config):
                pass

    for handler, call in (
        (ours, lambda config: read(made(), config=config)),
        (theirs, original),
    ):
        try:
            await call({"callbacks": [handler]})
            outcomes.append("answer")
        except (OSError, KeyError) as exc:
            outcomes.append(repr(exc))
    assert outcomes[0] == outcomes[1]
    if "fallbacks" in shape and not by_steps:
        for tree in (ours, theirs):
            tree.seen = [e[:2] if e[0] == "start" else e for e in tree.seen]
    assert ours.seen == theirs.seen


async def test_a_token_handler_sees_one_answer() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = retried(streaming(Flaky(OSError("a"))))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: read(chain, config={"callbacks": [handler]}))
        assert [token async for token in handler.aiter()] == ["one ", "two"]


async def test_an_attempt_that_stalls_is_cut_off_and_followed_by_another() -> None:
    waits = [anyio.Event(), None]

    async def before(number: int) -> None:
        wait = waits.pop(0) if number == 0 else None
        if wait is not None:
            await wait.wait()

    model = AStreamModel(before=before)
    chain = retried(model, retry_if_exception_type=(StreamStalledError,))
    _, text = await read(chain, chunk_timeout=0.05)
    assert text == "one two three"
    assert model.trace[0] == "closed"


class Held(AStreamModel):
    """Holds a generator that it has started, as an SDK's stream does, until it is closed."""

    opened: list[str] = Field(default_factory=list)

    async def _astream(self, messages: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        async def connection() -> Any:
            self.opened.append("open")
            try:
                yield
                yield
            finally:
                await anyio.sleep(0)
                self.opened.append("close")

        async for _ in connection():
            if len(self.opened) < 3:
                raise OSError("cut")
            async for chunk in super()._astream(messages, **kwargs):
                yield chunk


async def test_the_next_attempt_begins_when_the_failed_one_has_closed() -> None:
    model = Held()
    await read(retried(model))
    assert model.opened[:3] == ["open", "close", "open"]


@pytest.mark.parametrize("at", ("wait", "second attempt"))
async def test_leaving_ends_the_attempts(at: str) -> None:
    reached = anyio.Event()
    attempts = []

    async def before(number: int) -> None:
        attempts.append(number)
        if len(attempts) == 1:
            if at == "wait":
                reached.set()
            raise OSError("first")
        reached.set()
        await anyio.sleep_forever()

    chain = AStreamModel(before=before).with_retry(wait_exponential_jitter=at == "wait")
    tree = Tree()
    with anyio.fail_after(20):
        async with open_stream(chain, "hi", {"callbacks": [tree]}) as stream:
            async with anyio.create_task_group() as tasks:

                async def consume() -> None:
                    with pytest.raises(StreamCancelledError):
                        await stream.text

                tasks.start_soon(consume)
                await reached.wait()
                await anyio.wait_all_tasks_blocked()
                await stream.aclose()
    assert len(attempts) == (1 if at == "wait" else 2)
    assert [entry[:2] for entry in tree.seen if entry[0] != "start"] == [
        ("error", "model"),
        *([("error", "model")] if at != "wait" else []),
        ("error", "AStreamModel"),
    ]


def _wrapped(model: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], ...]:
    return (model, PROMPT | model, model.with_retry(), model.with_fallbacks([model]))


class Declaring(AStreamModel):
    timeout: float = 1
    limit: float | None = Field(default=None, alias="max_buffer")

    async def _astream(self, messages: Any, buffer_size: int = 0, **kwargs: Any) -> Any:  # type: ignore[override]
        async for chunk in super()._astream(messages, buffer_size=buffer_size, **kwargs):
            yield chunk


@pytest.mark.parametrize(
    ("keyword", "meant"),
    (
        ("timeout", "chunk_timeout"),
        ("buffer_size", "max_buffer_size"),
        ("max_buffer", "max_buffer_size"),
    ),
)
def test_keywords_that_look_like_options(keyword: str, meant: str) -> None:
    arguments: Any = {keyword: 3}
    for runnable in _wrapped(AStreamModel()):
        with pytest.raises(TypeError, match=f"no option {keyword!r}.* did you mean {meant!r}"):
            open_stream(runnable, "hi", **arguments)
        open_stream(runnable.bind(**arguments), "hi")
        open_stream(runnable, "hi", top_p=0.5, store=True, seed=1, timeouts_per_day=1)
    for runnable in _wrapped(Declaring()):
        open_stream(runnable, "hi", **arguments)


@pytest.mark.parametrize(
    ("runnable", "match"),
    (
        (streaming(Flaky()) | StrOutputParser(), "this RunnableSequence ends in a StrOutputParser"),
        (
            retried(streaming(Flaky()) | StrOutputParser()),
            "this RunnableRetry retries a RunnableSequence",
        ),
        (
            streaming(Flaky()).with_fallbacks([RunnableLambda(lambda value: value)]),
            "this RunnableWithFallbacks has among its fallbacks a RunnableLambda",
        ),
        (
            (streaming(Flaky()) | StrOutputParser()).with_config(tags=["a"]).bind(x=1),
            "this RunnableBinding ends in a StrOutputParser",
        ),
        (RunnableLambda(lambda value: value), "not a RunnableLambda"),
    ),
    ids=("sequence", "retry", "fallbacks", "binding", "function"),
)
def test_refusals_name_what_is_inside_and_a_way_out(runnable: Any, match: str) -> None:
    with pytest.raises(TypeError, match=f"{match}; stream any other chain with its astream") as e:
        open_stream(runnable, "hi")
    assert "on trio after langchain_anyio.enable_trio()" in str(e.value)
