"""What mypy and pyright must accept and refuse; the nox session `types` runs both on this file.

An error that a line must have is expected by `type: ignore`: one that is not needed is an error.
"""

# mypy: disable-error-code="unused-awaitable"
# pyright: basic, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.graph import StateGraph
from langgraph.pregel.remote import RemoteGraph
from typing_extensions import TypedDict, assert_type

from langchain_anyio import AsyncChatModelStream, GraphStream, open_stream

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


class State(TypedDict):
    question: str


class Question:
    text: str


def prompt(question: Question) -> str:
    return question.text


def models(model: BaseChatModel) -> None:
    assert_type(open_stream(model, "hi"), AsyncChatModelStream)
    assert_type(open_stream(model.bind(stop=["."]), "hi"), AsyncChatModelStream)
    assert_type(open_stream(model.bind_tools([]), "hi"), AsyncChatModelStream)
    assert_type(open_stream(model.with_config(tags=["a"]), "hi"), AsyncChatModelStream)
    assert_type(open_stream(model.with_retry(), "hi"), AsyncChatModelStream)
    assert_type(open_stream(model.with_fallbacks([model]), "hi"), AsyncChatModelStream)
    template = ChatPromptTemplate.from_template("{question}")
    assert_type(open_stream(template | model, {"question": "why"}), AsyncChatModelStream)
    chain = (RunnableLambda(prompt) | model).with_config(tags=["a"])
    assert_type(open_stream(chain, Question()), AsyncChatModelStream)
    open_stream("gpt-4", "hi")  # type: ignore[call-overload]


def graphs(model: BaseChatModel) -> None:
    assert_type(open_stream(create_agent(model), {"messages": []}), GraphStream)
    graph = StateGraph(State).compile()
    assert_type(open_stream(graph, {"question": "why"}), GraphStream)
    assert_type(open_stream(graph.with_config(tags=["a"]), {}), GraphStream)


def remote_graphs(graph: RemoteGraph, anything: Any) -> None:
    assert_type(open_stream(graph, {"question": "why"}), GraphStream)
    assert_type(open_stream(graph, anything), GraphStream)
    assert_type(open_stream(graph.with_config(tags=["a"]), {}), GraphStream)


async def reading(model: BaseChatModel) -> None:
    async with open_stream(model, "hi") as stream:
        async for delta in stream.text:
            assert_type(delta, str)
        assert_type(await stream.text, str)
        assert_type(await stream, AIMessage)


async def awaited_too_early(model: BaseChatModel) -> None:
    message = await open_stream(model, "hi")
    async for _ in message.text:  # type: ignore[attr-defined]
        pass
    async with await open_stream(model, "hi"):  # type: ignore[attr-defined]
        pass


async def reading_a_graph(stream: GraphStream) -> None:
    async for state in stream.values:
        assert_type(state, dict[str, Any])
