"""A provider's model runs in a view of it: what it does to itself in a call is done to the user's object."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import anyio
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr

from langchain_anyio import open_stream
from langchain_anyio._providers.table import for_current_loop
from langchain_anyio._providers.views import ABSENT, is_view, view_of, viewed
from loopback import ProviderServer, Scenario
from loopback.models import OPTIONS

pytest_plugins = ["loopback.fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings(
        "ignore:Async generator '(openai|anthropic|httpx2?|httpcore2?|langchain_openai)\\.:ResourceWarning"
    ),
]

MADE: list[type] = []


class Changing:
    """Changes itself in every way that there is, in each call."""

    total = 0

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        this: Any = self
        await this._note()
        async for chunk in super()._astream(*args, **kwargs):  # type: ignore[misc]
            yield chunk

    async def _note(self) -> None:
        this: Any = self
        before = this.calls
        this.calls += 1
        assert this.calls == before + 1
        this._private += 1
        this.notes.append(this.calls)
        this.seen = {"calls": this.calls}
        object.__setattr__(self, "slot", this.calls)
        if not this.model_config.get("validate_assignment"):  # which takes no others than fields
            object.__setattr__(self, "plain", this.calls)
            this.__dict__["direct"] = this.calls
        if hasattr(self, "gone"):
            object.__delattr__(self, "gone")
        type(self).total += 1
        this.twice = this.calls
        await anyio.sleep(0)


def changing(base: type, *, validate: bool = False, **options: Any) -> Any:
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__slots__": ("slot",),
        "__annotations__": {"calls": int, "notes": list, "seen": Any, "_private": int, "gone": Any},
        "calls": 0,
        "notes": [],
        "seen": None,
        "gone": 1,
        "_private": PrivateAttr(default=0),
        "twice": property(
            lambda self: self.calls, lambda self, value: setattr(self, "seen", {"twice": value})
        ),
        "__init_subclass__": classmethod(lambda cls, **kwargs: MADE.append(cls)),
    }
    if validate:
        namespace["model_config"] = ConfigDict(validate_assignment=True)
    cls = type(base)("Changed", (Changing, base), namespace)
    return cls(**options)


def openai_model(server: ProviderServer) -> Any:
    url = server.serve(Scenario()).openai_url
    return changing(ChatOpenAI, model="m", base_url=url, **OPTIONS)


def anthropic_model(server: ProviderServer, **options: Any) -> Any:
    url = server.serve(Scenario()).anthropic_url
    return changing(ChatAnthropic, model="m", base_url=url, **options, **OPTIONS)


def validating(server: ProviderServer) -> Any:
    return anthropic_model(server, validate=True)


MODELS = (openai_model, anthropic_model, validating)


async def ask(model: Any) -> None:
    async with open_stream(model, "hi") as stream:
        assert (await stream).text == "Hello, world."


@pytest.mark.parametrize("make", MODELS)
async def test_what_a_model_sets_on_itself_is_there_afterwards(
    make: Callable[[ProviderServer], Any], server: ProviderServer
) -> None:
    model = make(server)
    cls = type(model)
    clients = {name: model.__dict__.get(name) for name in ("async_client", "root_async_client")}
    made = len(MADE)
    for calls in (1, 2):
        await ask(model)
        assert model.calls == model._private == model.slot == calls
        assert model.notes == list(range(1, calls + 1))
        assert model.seen == {"twice": calls}
        if make is not validating:
            assert model.plain == model.__dict__["direct"] == calls
        assert not hasattr(model, "gone")
        assert cls.total == calls
        assert {"calls", "seen"} <= model.model_fields_set
    assert Changing.total == 0
    assert type(model) is cls
    assert len(MADE) == made
    for name, client in clients.items():
        assert model.__dict__.get(name) is client


@pytest.mark.parametrize("make", MODELS)
async def test_calls_at_the_same_time_all_count(
    make: Callable[[ProviderServer], Any], server: ProviderServer
) -> None:
    model = make(server)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask, model)
    assert model.calls == model._private == model.slot == 10
    assert sorted(model.notes) == list(range(1, 11))


@pytest.mark.parametrize("make", MODELS)
async def test_a_model_and_its_views_see_what_is_set_meanwhile(
    make: Callable[[ProviderServer], Any], server: ProviderServer
) -> None:
    model = make(server)
    one, other = for_current_loop(model), for_current_loop(model)
    for number, who in enumerate((model, one, other, model, other, one)):
        who.calls = number
        who._private = number
        assert {m.calls for m in (model, one, other)} == {number}
        assert {m._private for m in (model, one, other)} == {number}
    one.__dict__ = {**one.__dict__, "calls": 100}
    assert one.calls == model.calls == 100


async def test_a_view_passes_for_its_model(server: ProviderServer) -> None:
    model: Any = openai_model(server)
    cls = type(model)
    view = for_current_loop(model)
    assert view is not model
    assert isinstance(view, cls)
    assert view.__class__ is cls
    assert {cls: "found"}[type(view)] == "found"
    assert type(view).__name__ == cls.__name__
    assert view == model
    assert model == view
    assert view == for_current_loop(model)
    assert view != openai_model(server)
    assert repr(view) == repr(model)
    assert vars(view) is vars(model)
    assert view.model_dump() == model.model_dump()
    assert view.lc_id() == model.lc_id()
    assert view.to_json() == model.to_json()
    assert not isinstance(model, type(view))
    assert type(type(view)(model="m", **OPTIONS)) is cls
    assert type(type(view).model_construct()) is cls
    assert type(type(view).model_validate({"model": "m", **OPTIONS})) is cls
    type(view).mark = 1
    assert cls.mark == 1
    del type(view).mark
    assert not hasattr(cls, "mark")
    with pytest.raises(TypeError, match="unhashable"):
        hash(view)


class Ending(ChatOpenAI):
    ended: ClassVar[list[int]] = []

    def __del__(self) -> None:
        self.ended.append(1)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


async def test_a_view_has_the_hash_of_its_model_and_not_its_end() -> None:
    model = Ending(model="m", **OPTIONS)
    ended = len(Ending.ended)
    view = for_current_loop(model)
    assert {model: "found"}[view] == "found"
    assert {view: "found"}[model] == "found"
    del view
    assert len(Ending.ended) == ended


class Small(BaseModel):
    client: Any = None
    number: int = 0


async def test_a_view_is_pickled_and_copied_as_its_model() -> None:
    model = Small(client="theirs")
    view = view_of(model, {"client": lambda stored: f"ours for {stored}"}, lambda: True)
    assert view.client == "ours for theirs"
    loaded = pickle.loads(pickle.dumps(view))
    assert type(loaded) is Small
    assert loaded == model
    for duplicate in (
        copy.copy(view),
        copy.deepcopy(view),
        view.model_copy(),
        view.model_copy(deep=True),
    ):
        assert duplicate.client == "ours for theirs"
        duplicate.number = 5
        assert viewed(duplicate) is not model
    assert model.number == 0
    assert view.model_copy(update={"client": "new"}).client == "ours for new"
    view.client = "other"
    assert (view.client, model.client) == ("ours for other", "other")
    object.__setattr__(view, "client", "third")
    assert model.client == "third"
    object.__delattr__(view, "client")
    assert not hasattr(model, "client")
    away = view_of(Small(client="theirs"), {"client": lambda _: "ours"}, lambda: False)
    assert away.client == "theirs"
    assert not is_view(away)
    gone = view_of(Small(), {"client": lambda _: ABSENT}, lambda: True)
    assert gone.client is None


async def test_a_copy_that_a_model_makes_in_its_call_runs_too(server: ProviderServer) -> None:
    class Copies(ChatOpenAI):
        kept: Any = None

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            if self.kept is None:
                self.kept = self.model_copy(update={"temperature": 0.5, "kept": True})
            asked = self if self.kept is True else self.kept
            async for chunk in ChatOpenAI._astream(asked, *args, **kwargs):
                yield chunk

    endpoint = server.serve(Scenario())
    model = Copies(model="m", base_url=endpoint.openai_url, **OPTIONS)
    await ask(model)
    assert model.temperature is None
    assert model.kept.temperature == 0.5

    async def main() -> None:
        await ask(model.kept)

    # On other event loops it has the clients of those.
    await anyio.to_thread.run_sync(anyio.run, main)
    for backend in ("asyncio", "trio"):
        try:
            await anyio.to_thread.run_sync(lambda name=backend: anyio.run(main, backend=name))
        except LookupError:
            assert backend == "trio"  # not installed
    await ask(model.kept)


async def test_a_client_that_a_model_gives_itself_in_its_call_is_used(
    server: ProviderServer,
) -> None:
    endpoint, other = server.serve(Scenario()), server.serve(Scenario())
    import openai

    class Moves(ChatOpenAI):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            self.root_async_client = theirs
            self.async_client = theirs.chat.completions
            assert self.stream_chunk_timeout == 120
            self.stream_chunk_timeout *= 2
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    async with openai.DefaultAsyncHttpxClient() as http:
        theirs = openai.AsyncOpenAI(base_url=other.openai_url, http_client=http, **OPTIONS)
        model = Moves(model="m", base_url=endpoint.openai_url, stream_chunk_timeout=120, **OPTIONS)
        await ask(model)
        assert model.root_async_client is theirs
        assert model.stream_chunk_timeout == 240
    assert not endpoint.exchanges
    assert len(other.exchanges) == 1


async def test_what_is_bound_to_a_model_in_its_call_stays_with_it(server: ProviderServer) -> None:
    model = openai_model(server)
    bound = model.bind(stop=["x"]).with_config(tags=["t"])
    await ask(bound)
    assert model.calls == 1


async def test_embeddings_keep_what_they_set_on_themselves() -> None:
    class Counting(OpenAIEmbeddings):
        asked: int = 0

    model = Counting(**OPTIONS)
    view = for_current_loop(model)
    assert view is not model
    assert view.async_client is not model.async_client
    assert for_current_loop(view) is view
    view.asked += 1
    assert model.asked == 1


def test_a_view_of_an_ended_loop_is_made_anew() -> None:
    model = ChatOpenAI(model="m", **OPTIONS)

    async def main() -> Any:
        return for_current_loop(model)

    view = asyncio.run(main())
    assert view.async_client is model.async_client

    async def again() -> None:
        new = for_current_loop(view)
        assert new is not view
        assert viewed(new) is model
        assert new.async_client is not model.async_client

    asyncio.run(again())
