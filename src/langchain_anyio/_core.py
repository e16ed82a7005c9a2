"""The private names of langchain-core that this package stands on.

No other module imports one, so what a new release of langchain-core can break is listed here, each with its reason.
"""

from __future__ import annotations

# The bridge and the accumulator must agree with langchain-core on which arguments of a tool call parse.
from langchain_core.language_models._compat_bridge import (
    finalize_tool_call_chunk as finalize_tool_call_chunk,
)

# A message that a model returned whole is replayed as events.
from langchain_core.language_models._compat_bridge import (
    message_to_events as message_to_events,
)

# Fields that come in pieces over several chunks (a `function_call`) are merged as `AIMessageChunk` merges them.
from langchain_core.utils._merge import merge_dicts as merge_dicts

try:
    # Metadata for tracing under this key must not reach the message.
    from langchain_core.utils._gateway import (
        GATEWAY_METADATA_RESPONSE_KEY as GATEWAY_METADATA_RESPONSE_KEY,
    )
except ImportError:
    # Releases before 1.6 have no gateway, and their models do not set the key.
    GATEWAY_METADATA_RESPONSE_KEY = "lc_gateway_metadata"
