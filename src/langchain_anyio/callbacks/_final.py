"""`AsyncFinalIteratorCallbackHandler`: the tokens of an agent's final answer."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, final
from weakref import WeakKeyDictionary, WeakSet

from typing_extensions import override

from ._iterator import AsyncIteratorCallbackHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.outputs import LLMResult

    from ._run_node import RunNode

DEFAULT_ANSWER_PREFIX_TOKENS: Final = ("Final", "Answer", ":")


@final
class PrefixMatcher:
    """Finds a prefix in a text that arrives in tokens, however the text is split into them.

    Args:
        prefix: The text to find.
        strip: Whether to ignore white space, in the prefix and in the text.
    """

    __slots__ = ("_fallback", "_matched", "_prefix", "_recent", "_strip")

    def __init__(self, prefix: str, *, strip: bool) -> None:
        self._strip = strip
        self._prefix = "".join(filter(self._counts, prefix))
        # Knuth-Morris-Pratt: the number of characters that still match after a mismatch.
        self._fallback = [0, 0]
        for character in self._prefix[1:]:
            self._fallback.append(self._advance(self._fallback[-1], character))
        self._matched = 0
        # The latest tokens, from the one in which the current partial match begins.
        self._recent: deque[str] = deque()

    def feed(self, token: str) -> tuple[list[str], str] | None:
        """Process a token; return `None` until the prefix is complete.

        Returns:
            The prefix as the model said it, and the part of this token that follows it.
        """
        self._recent.append(token)
        for end, character in enumerate(token, 1):
            if self._counts(character):
                self._matched = self._advance(self._matched, character)
                if self._matched == len(self._prefix):
                    return self._split(token, end)
        while sum(map(self._count, self._recent)) - self._count(self._recent[0]) >= self._matched:
            self._recent.popleft()
            if not self._recent:
                break
        return None

    def _advance(self, matched: int, character: str) -> int:
        while matched and (matched == len(self._prefix) or self._prefix[matched] != character):
            matched = self._fallback[matched]
        return matched + (self._prefix[matched] == character)

    def _split(self, token: str, end: int) -> tuple[list[str], str]:
        rest = token[end:]
        if self._strip and not rest.strip():
            end, rest = len(token), ""
        said = [*self._recent]
        said[-1] = token[:end]
        surplus = sum(map(self._count, said)) - len(self._prefix)
        while surplus:
            if not said[0]:
                del said[0]
            surplus -= self._counts(said[0][0])
            said[0] = said[0][1:]
            if not surplus and self._strip:
                said[0] = said[0].lstrip()
        return [piece for piece in said if piece], rest

    def _counts(self, character: str) -> bool:
        return not (self._strip and character.isspace())

    def _count(self, text: str) -> int:
        return len("".join(text.split())) if self._strip else len(text)


@final
class _Call:
    """The state of one model call."""

    __slots__ = ("held", "matcher", "offered_tools", "reached")

    def __init__(self, matcher: PrefixMatcher, *, reached: bool, offered_tools: bool) -> None:
        self.matcher = matcher
        self.reached = reached
        self.offered_tools = offered_tools
        self.held: list[str] = []


class AsyncFinalIteratorCallbackHandler(AsyncIteratorCallbackHandler):
    """Iterate over the tokens of an agent's final answer, and of nothing before it.

    The final answer is found in one of two ways:

    - After a prefix: an agent that is prompted to think aloud says the prefix before its final
      answer, within the same model call. The tokens after it are streamed as the model produces
      them.
    - By tool calls: of a model that was offered tools, the final answer is the call that makes no
      tool call. This is known only when the call ends, so the tokens of that answer arrive all
      together at its end.

    Models that are called within a tool do not count.

    Everything else is as with `AsyncIteratorCallbackHandler`.

    Ports
    `langchain_classic.callbacks.streaming_aiter_final_only.AsyncFinalIteratorCallbackHandler`,
    which finds the prefix only where the model splits it into exactly the given tokens, and does
    not support tool calls.

    Args:
        answer_prefix_tokens: The prefix, `["Final", "Answer", ":"]` by default; the model may split
            it into tokens in any other way.
        strip_tokens: Whether to ignore white space in and between the tokens of the prefix.
        stream_prefix: Whether the prefix is part of the answer.
        max_buffer_size: As with `AsyncIteratorCallbackHandler`.
        raise_on_error: As with `AsyncIteratorCallbackHandler`.
    """

    _of_runs = AsyncIteratorCallbackHandler._of_runs | {
        "last_tokens",
        "last_tokens_stripped",
        "answer_reached",
        "_calls",
        "_offered_tools",
        "_called_tools",
        "_tools",
        "_said",
    }

    def __init__(
        self,
        *,
        answer_prefix_tokens: Sequence[str] | None = None,
        strip_tokens: bool = True,
        stream_prefix: bool = False,
        max_buffer_size: float = math.inf,
        raise_on_error: bool = True,
    ) -> None:
        if answer_prefix_tokens is None:
            answer_prefix_tokens = DEFAULT_ANSWER_PREFIX_TOKENS
        self.answer_prefix_tokens: list[str] = list(answer_prefix_tokens)
        self.answer_prefix_tokens_stripped: list[str] = [
            token.strip() if strip_tokens else token for token in self.answer_prefix_tokens
        ]
        self.strip_tokens = strip_tokens
        self.stream_prefix = stream_prefix
        super().__init__(max_buffer_size, raise_on_error=raise_on_error)

    @override
    def _renew(self) -> None:
        super()._renew()
        self.last_tokens: list[str] = [""] * len(self.answer_prefix_tokens)
        self.last_tokens_stripped: list[str] = [""] * len(self.answer_prefix_tokens)
        self.answer_reached: bool = False
        self._calls: WeakKeyDictionary[RunNode, _Call] = WeakKeyDictionary()
        # Outermost runs in which a model was offered tools, or has called one.
        self._offered_tools: WeakSet[RunNode] = WeakSet()
        self._called_tools: WeakSet[RunNode] = WeakSet()
        self._tools: WeakSet[RunNode] = WeakSet()
        self._said: tuple[list[str], str] | None = None

    def append_to_last_tokens(self, token: str) -> None:
        """Append a token to `last_tokens`, which holds as many tokens as the prefix has."""
        for tokens, last in (
            (self.last_tokens, token),
            (self.last_tokens_stripped, token.strip()),
        ):
            tokens.append(last)
            del tokens[: -len(self.answer_prefix_tokens) or None]

    def check_if_answer_reached(self) -> bool:
        """Return whether the model that spoke last has said the prefix; override to change this."""
        return self._said is not None

    @override
    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any
    ) -> None:
        """Record that a model has started, and whether it was offered tools."""
        await super().on_llm_start(serialized, prompts, **kwargs)
        offered = kwargs.get("invocation_params") or {}
        with self._runs.lock:
            run = self._run(kwargs)
            call = self._call(run)
            if offered.get("tools") or offered.get("functions"):
                call.offered_tools = True
                self._offered_tools.add(run.root)
            self.answer_reached = call.reached

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Record the end of a model; emit its answer if it was offered tools and called none."""
        run = self._runs.find(kwargs.get("run_id"))
        if run is not None:
            for token in self._answer_without_prefix(run, response):
                await super()._emit(run, token)
        await super().on_llm_end(response, **kwargs)

    @override
    async def on_tool_start(
        self, serialized: dict[str, Any], input_str: str, **kwargs: Any
    ) -> None:
        """Record that a tool has started."""
        await super().on_tool_start(serialized, input_str, **kwargs)
        self._tools.add(self._run(kwargs))

    @override
    async def _emit(self, run: RunNode, text: str) -> None:
        for token in self._answer_in(run, text):
            await super()._emit(run, token)

    def _call(self, run: RunNode) -> _Call:
        call = self._calls.get(run)
        if call is None:
            prefix = "".join(self.answer_prefix_tokens)
            matcher = PrefixMatcher(prefix, strip=self.strip_tokens)
            empty = not (prefix.strip() if self.strip_tokens else prefix)
            call = _Call(matcher, reached=empty, offered_tools=False)
            self._calls[run] = call
        return call

    def _answer_in(self, run: RunNode, text: str) -> list[str]:
        """Return the tokens that a token adds to the answer."""
        with self._runs.lock:
            call = self._call(run)
            self.append_to_last_tokens(text)
            if call.reached:
                return [text]
            self._said = call.matcher.feed(text)
            call.reached = self.answer_reached = self.check_if_answer_reached()
            if not call.reached:
                call.held.append(text)
                return []
            call.held.clear()
            said, rest = self._said or (self.last_tokens, "")
            answer = [*said, rest] if self.stream_prefix else [rest]
            return [token for token in answer if token]

    def _answer_without_prefix(self, run: RunNode, response: LLMResult) -> list[str]:
        """Return the tokens of a call that is the final answer of a model that calls tools."""
        with self._runs.lock:
            call = self._call(run)
            if any(outer in self._tools for outer in run.outer()):
                return []
            if _calls_tools(response):
                self._called_tools.add(run.root)
                return []
            agent = call.offered_tools or (
                run.root in self._called_tools and run.root not in self._offered_tools
            )
            if not agent or call.reached:
                return []
            self.answer_reached = call.reached = True
            return call.held


def _calls_tools(response: LLMResult) -> bool:
    for generations in response.generations:
        for generation in generations:
            message = getattr(generation, "message", None)
            if message is not None and (
                getattr(message, "tool_calls", None)
                or getattr(message, "invalid_tool_calls", None)
                or message.additional_kwargs.get("tool_calls")
                or message.additional_kwargs.get("function_call")
            ):
                return True
    return False


AsyncFinalIteratorCallbackHandler.__module__ = "langchain_anyio"
