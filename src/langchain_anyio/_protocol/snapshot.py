"""Snapshots of a message, which are valid messages whatever events produced them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import AIMessage

from .text_blocks import TextBlocks
from .tool_calls import Block, ToolCalls


def copy_message(message: AIMessage) -> AIMessage:
    """Return a copy that shares no list or dict with `message`."""
    return message.model_copy(
        update={name: _copy_containers(value) for name, value in message.__dict__.items()}
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
    """Return a message that is incomplete; its unfinished tool calls are invalid tool calls.

    Args:
        text: The text.
        reasoning: The reasoning.
        blocks: The finished blocks, by their indexes.
        calls: The tool calls.
        message_id: The id; left out unless it is a string.
        usage: The usage; left out unless it is valid.
        metadata: The response metadata; copied, and marked as `"partial"`.
    """
    unfinished = calls.unfinished_blocks()
    valid_calls = [
        _valid_block(call)
        for call in (*cast("list[Block]", calls.finished), *calls.invalid, *unfinished.values())
    ]
    metadata = _copy_containers(metadata)
    metadata["partial"] = True
    try:
        usage = AIMessage("", usage_metadata=_copy_containers(usage)).usage_metadata
    except ValueError:
        usage = None
    # Without validation, which would refuse text that was cut within a surrogate pair. All else is
    # valid by now.
    return AIMessage.model_construct(
        content=_content({**blocks, **unfinished}, text, reasoning),
        id=_text_or_none(message_id),
        tool_calls=[
            {key: call.get(key) for key in ("name", "args", "id", "type")}
            for call in valid_calls
            if call["type"] == "tool_call"
        ],
        invalid_tool_calls=[
            {key: call.get(key) for key in ("type", "id", "name", "args", "error")}
            for call in valid_calls
            if call["type"] == "invalid_tool_call"
        ],
        usage_metadata=usage,
        response_metadata=metadata,
    )


def _content(
    blocks: Mapping[Any, Block], text: TextBlocks, reasoning: TextBlocks
) -> str | list[Block]:
    indexed = [(index, _valid_block(block)) for index, block in blocks.items()]
    unindexed: list[Block] = []
    for name, texts in (("reasoning", reasoning), ("text", text)):
        indexed += [
            (index, {"type": name, name: "".join(parts), "index": index})
            for index, parts in texts.blocks.items()
            if index not in blocks
        ]
        if texts.unindexed:
            unindexed.append({"type": name, name: "".join(texts.unindexed)})
    if not indexed and not reasoning.unindexed:
        return "".join(text.unindexed or ())
    rank = {index: n for n, index in enumerate(_sort_if_comparable([*dict(indexed)]))}
    indexed.sort(key=lambda item: rank[item[0]])
    return [block for _, block in indexed] + unindexed


def _copy_containers(value: Any) -> Any:
    """Copy lists and dicts at any depth; share other values, which may not be copyable."""
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
        # An integer of thousands of digits, or nesting thousands of levels deep.
        return None


def _valid_block(block: Block) -> Block:
    """Copy a block, and turn a tool call that `AIMessage` would refuse into an invalid one."""
    block = _copy_containers(block)
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


def _sort_if_comparable(indexes: list[Any]) -> list[Any]:
    """Return the indexes sorted, or in order of arrival if they cannot be compared."""
    try:
        return sorted(indexes)
    except TypeError:
        return indexes
