"""Models that cannot run on trio, because their packages send requests with aiohttp."""

from __future__ import annotations

from typing import Any, Final

from langchain_anyio._backends.current import backend

_WAYS_OUT: Final = {
    "langchain_litellm": "LiteLLM's proxy server with ChatOpenAI(base_url=...)",
    "langchain_nvidia_ai_endpoints": "the same endpoint with ChatOpenAI(base_url=...) or "
    "OpenAIEmbeddings(base_url=...)",
    "langchain_together": "ChatTogether",
    "langchain_fireworks": "ChatFireworks",
}


def refuse_on_trio(model: Any) -> Any:
    """Return the model.

    Raises:
        RuntimeError: The caller runs on trio.
    """
    if backend() == "trio":
        cls = type(model)
        for base in cls.__mro__:
            package = base.__module__.partition(".")[0]
            if package in _WAYS_OUT:
                raise RuntimeError(
                    f"{cls.__name__} does not run on trio: {package.replace('_', '-')} sends its "
                    "requests with aiohttp, which needs asyncio. Run it on asyncio, or use "
                    f"{_WAYS_OUT[package]}"
                )
    return model
