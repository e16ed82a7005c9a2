"""The asynchronous tests of langchain-core that pass on asyncio and not on trio, each with its reason.

A test listed here that passes on trio, or is no longer there, fails the session.
"""

from __future__ import annotations

PRODUCER = "looks at the asyncio task of the run in the private attribute `_producer_task`; on trio the stream is this package's"
FORGED = "expects an `asyncio.CancelledError` that nobody's cancellation raised; on trio it is `StreamCancelledError`"
CLASS = "asks for an instance of langchain-core's own stream class; on trio the stream is this package's"
BLOCKBUSTER = "expects an error of blockbuster's, which looks for a running loop of asyncio's"

LANGUAGE_MODELS = "tests/unit_tests/language_models"
STREAMER = f"{LANGUAGE_MODELS}/test_chat_model_streamer.py::"
V3 = f"{LANGUAGE_MODELS}/test_chat_model_v3_stream.py::"

LEFT_OUT = {
    f"{STREAMER}TestAstreamV2::test_astream_text_await": CLASS,
    f"{STREAMER}TestCallbacks::test_empty_astream_reports_error": PRODUCER,
    f"{STREAMER}TestCancellation::test_astream_events_v3_cancellation_propagates": PRODUCER,
    f"{V3}TestAstreamV2::test_astream_events_v3_text": CLASS,
    f"{V3}TestAsyncStreamAclose::test_aclose_before_producer_starts_resolves_projections": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_cancels_producer_task": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_aclose_fires_on_llm_error_for_tracing": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_propagates_caller_cancellation": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_async_context_manager_closes_stream": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_aclose_preserves_successful_stream_mid_on_llm_end": PRODUCER,
    "tests/unit_tests/test_setup.py::test_blockbuster_setup": BLOCKBUSTER,
}

# In langchain-core from 1.6 on.
SINCE_1_6 = {
    f"{V3}test_v3_gateway_metadata_traced_on_error_async[False]": PRODUCER,
    f"{V3}test_v3_gateway_metadata_traced_on_error_async[True]": PRODUCER,
}


def left_out(release: str) -> dict[str, str]:
    """Return the names and reasons for a release."""
    major, minor = map(int, release.split(".")[:2])
    return {**LEFT_OUT, **SINCE_1_6} if (major, minor) >= (1, 6) else LEFT_OUT
