"""Agents that the command line is given: what they say is fixed, and needs no network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


class Speaker(BaseChatModel):
    """Calls its tools all at once, piece by piece, and says its answer once they have returned."""

    calls: dict[str, str]
    answer: str

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if messages[-1].type == "tool" or not self.calls:
            for piece in self.answer.split(" "):
                await anyio.sleep(0)
                yield ChatGenerationChunk(message=AIMessageChunk(f"{piece} "))
            return
        for index, (topic, name) in enumerate(self.calls.items()):
            for part in (("", name, f"call {topic}"), (json.dumps({"topic": topic}), None, None)):
                args, name_, call_id = part
                chunk = tool_call_chunk(name=name_, args=args, id=call_id, index=index)
                yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))


_looked_up: list[str] = []


@tool
async def look_up(topic: str) -> str:
    """Look a topic up; `ice` is known after `water`."""
    while topic == "ice" and "water" not in _looked_up:
        await anyio.sleep(0.001)
    if topic == "fire":
        raise ValueError("fire is not wet")
    _looked_up.append(topic)
    return f"{topic} is wet\nindeed"


wet = create_agent(
    Speaker(calls={"ice": "look_up", "water": "look_up"}, answer="Both are wet."), [look_up]
)
burning = create_agent(Speaker(calls={"fire": "look_up"}, answer="Never said."), [look_up])


async def talk(state: MessagesState, config: RunnableConfig) -> Any:
    model = Speaker(calls={}, answer="Now for you.")
    return {"messages": [await model.ainvoke(state["messages"], config)]}


async def ask(state: MessagesState) -> Any:
    return {"messages": [("ai", interrupt("Shall I go on?"))]}


_whole = StateGraph(MessagesState).add_node("research", wet).add_node(talk).add_node(ask)
_whole.add_edge(START, "research").add_edge("research", "talk").add_edge("talk", "ask")
agent = _whole.compile(checkpointer=InMemorySaver())

not_compiled = _whole


def make() -> Any:
    return wet


async def make_later() -> Any:
    await anyio.sleep(0)
    return wet


def make_nothing() -> Any:
    return 3


def make_of(model: str) -> Any:
    raise NotImplementedError


class Question(TypedDict):
    question: str


async def answer(state: Question) -> Question:
    raise NotImplementedError


of_questions = StateGraph(Question).add_node(answer).add_edge(START, "answer").compile()
