"""Hugging Face's feature extraction; its chat is OpenAI's chat completions.

https://huggingface.co/docs/inference-providers/tasks/feature-extraction
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopback._wire import Embeddings, vector

if TYPE_CHECKING:
    from loopback._wire import JSON


def _embeddings(request: JSON) -> list[list[float]]:
    texts = request["inputs"]
    return [vector(text) for text in ([texts] if isinstance(texts, str) else texts)]


HUGGING_FACE_EMBEDDINGS = Embeddings("/feature-extraction", _embeddings)
