"""The formats on the wire, one a file, and the embeddings that go with them."""

from __future__ import annotations

from .anthropic_messages import MESSAGES
from .bedrock import BEDROCK, BEDROCK_EMBEDDINGS
from .cohere import COHERE, COHERE_EMBEDDINGS
from .google_genai import GOOGLE_EMBEDDINGS, GOOGLE_GENAI
from .hugging_face import HUGGING_FACE_EMBEDDINGS
from .mistral import MISTRAL
from .ollama import OLLAMA, OLLAMA_EMBEDDINGS
from .openai_chat_completions import (
    AZURE_COMPLETIONS,
    CHAT_COMPLETIONS,
    GROQ,
    OPENAI_EMBEDDINGS,
    PERPLEXITY,
    PERPLEXITY_EMBEDDINGS,
    REASONING_COMPLETIONS,
    REASONING_CONTENT_COMPLETIONS,
)
from .openai_responses import RESPONSES

FORMATS = (
    AZURE_COMPLETIONS,
    BEDROCK,
    CHAT_COMPLETIONS,
    COHERE,
    GOOGLE_GENAI,
    GROQ,
    MESSAGES,
    MISTRAL,
    OLLAMA,
    PERPLEXITY,
    REASONING_COMPLETIONS,
    REASONING_CONTENT_COMPLETIONS,
    RESPONSES,
)
EMBEDDINGS = (
    BEDROCK_EMBEDDINGS,
    COHERE_EMBEDDINGS,
    GOOGLE_EMBEDDINGS,
    HUGGING_FACE_EMBEDDINGS,
    OLLAMA_EMBEDDINGS,
    OPENAI_EMBEDDINGS,
    PERPLEXITY_EMBEDDINGS,
)
