"""The asynchronous tests of langchain-core that pass on asyncio and not on trio, each with its reason.

A test listed here that passes on trio, or is no longer there, fails the session.
"""

from __future__ import annotations

CANCELS = "cancels the run by its asyncio task, in the private attribute `_producer_task`; on trio the stream is this package's"
PENDING = "counts on a cancelled `aclose()` leaving the private `_producer_task` behind unfinished; on trio it waits for it"
PRIVATE = "looks at the private attribute `_error`; on trio the stream is this package's"
FORGED = "expects an `asyncio.CancelledError` that nobody's cancellation raised; on trio it is `StreamCancelledError`"
BLOCKBUSTER = "expects an error of blockbuster's, which looks for a running loop of asyncio's"

LANGUAGE_MODELS = "tests/unit_tests/language_models"
STREAMER = f"{LANGUAGE_MODELS}/test_chat_model_streamer.py::"
V3 = f"{LANGUAGE_MODELS}/test_chat_model_v3_stream.py::"

LEFT_OUT = {
    f"{STREAMER}TestCancellation::test_astream_events_v3_cancellation_propagates": CANCELS,
    f"{V3}TestAsyncStreamAclose::test_aclose_before_producer_starts_resolves_projections": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_fires_on_llm_error_for_tracing": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_propagates_caller_cancellation": PENDING,
    f"{V3}TestAsyncStreamAclose::test_aclose_preserves_successful_stream_mid_on_llm_end": PRIVATE,
    "tests/unit_tests/test_setup.py::test_blockbuster_setup": BLOCKBUSTER,
}


def left_out(release: str) -> dict[str, str]:
    """Return the names and reasons for a release."""
    del release  # they are the same for all
    return LEFT_OUT
