"""The message as far as it has come, which is valid whatever came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import AIMessage

from .text_blocks import TextBlocks
from .tool_calls import Block, ToolCalls


def copied_message(message: AIMessage) -> AIMessage:
    """Return a copy that shares no list or dict with `message`."""
    return message.model_copy(
        update={name: _copied(value) for name, value in message.__dict__.items()}
    )


def partial_message(
    *,
    text: TextBlocks,
    reasoning: TextBlocks,
    blocks: Mapping[Any, Block],
    calls: ToolCalls,
    message_id: Any,
    usage: Any,
    metadata: dict[str, Any],
) -> AIMessage:
    """Return a message that is not whole; its unfinished tool calls are invalid ones.

    Args:
        text: The text.
        reasoning: The reasoning.
        blocks: The finished blocks, by their indexes.
        calls: The tool calls.
        message_id: The id.
        usage: What the message has for its usage.
        metadata: The response metadata; copied, and marked as `"partial"`.
    """
    open_calls = calls.unfinished()
    sound = [
        _valid_block(call)
        for call in (*cast("list[Block]", calls.finished), *calls.invalid, *open_calls.values())
    ]
    metadata = _copied(metadata)
    metadata["partial"] = True
    try:
        usage = AIMessage("", usage_metadata=_copied(usage)).usage_metadata
    except ValueError:
        usage = None
    # Not validated: the blocks are valid by now, and text cut within a surrogate pair, which is
    # not, must not make this raise.
    return AIMessage.model_construct(
        content=_content({**blocks, **open_calls}, text, reasoning),
        id=_text_or_none(message_id),
        tool_calls=[
            {key: call.get(key) for key in ("name", "args", "id", "type")}
            for call in sound
            if call["type"] == "tool_call"
        ],
        invalid_tool_calls=[
            {key: call.get(key) for key in ("type", "id", "name", "args", "error")}
            for call in sound
            if call["type"] == "invalid_tool_call"
        ],
        usage_metadata=usage,
        response_metadata=metadata,
    )


def _content(
    blocks: Mapping[Any, Block], text: TextBlocks, reasoning: TextBlocks
) -> str | list[Block]:
    placed = [(index, _valid_block(block)) for index, block in blocks.items()]
    loose: list[Block] = []
    for name, prose in (("reasoning", reasoning), ("text", text)):
        placed += [
            (index, {"type": name, name: "".join(parts), "index": index})
            for index, parts in prose.blocks.items()
            if index not in blocks
        ]
        if prose.loose:
            loose.append({"type": name, name: "".join(prose.loose)})
    if not placed and not reasoning.loose:
        return "".join(text.loose or ())
    rank = {index: n for n, index in enumerate(_sorted_or_as_they_came([*dict(placed)]))}
    placed.sort(key=lambda item: rank[item[0]])
    return [block for _, block in placed] + loose


def _copied(value: Any) -> Any:
    """Copy lists and dicts, however deep; anything else is shared, as it may not be copyable."""
    root = [value]
    copies: dict[int, Any] = {}
    unread: list[Any] = [root]
    while unread:
        copy = unread.pop()
        for key, item in list(copy.items() if isinstance(copy, dict) else enumerate(copy)):
            if isinstance(item, dict | list):
                if id(item) not in copies:
                    copies[id(item)] = item.copy()
                    unread.append(copies[id(item)])
                copy[key] = copies[id(item)]
    return root[0]


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _repr_or_none(value: Any) -> str | None:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        # An integer of thousands of digits, or nesting as deep.
        return None


def _valid_block(block: Block) -> Block:
    """Return a copy of a block; a tool call that an `AIMessage` would refuse becomes an invalid one."""
    block = _copied(block)
    if block.get("type") == "tool_call" and not (
        isinstance(block.get("name"), str)
        and isinstance(block.get("id"), str | None)
        and isinstance(block.get("args"), dict)
        and all(isinstance(key, str) for key in block["args"])
    ):
        args = block.get("args")
        block["type"] = "invalid_tool_call"
        block["args"] = args if isinstance(args, str) else _repr_or_none(args)
        block["error"] = "The tool call is malformed"
    if block.get("type") == "invalid_tool_call":
        block.update(
            {key: _text_or_none(block.get(key)) for key in ("id", "name", "args", "error")}
        )
    return block


def _sorted_or_as_they_came(indexes: list[Any]) -> list[Any]:
    """Return the indexes sorted, or in the order of arrival where they have no order."""
    try:
        return sorted(indexes)
    except TypeError:
        return indexes
