"""The asynchronous tests of langchain-core that are not about the contract of the project's classes, each with its reason.

A test listed here must fail on both backends: one that passes, or is no longer there, fails the session.
"""

from __future__ import annotations

PUSHES = "drives the stream by private methods (`_push_content_block_delta`, `_push_content_block_finish`, `_finish`)"
PRODUCER = "looks at the asyncio task of the run in the private attribute `_producer_task`"
FORGED = "expects an `asyncio.CancelledError` that nobody's cancellation raised; here it is `StreamCancelledError`"
OTHERS = "is about `ainvoke`, which is langchain-core's alone"

STREAM = "test_chat_model_stream.py::"
STREAMER = "test_chat_model_streamer.py::"
V3 = "test_chat_model_v3_stream.py::"

LEFT_OUT = {
    f"{STREAM}TestAsyncProjection::test_async_chat_model_stream_set_arequest_more_fans_out": (
        "compares the private attributes that hold the projections and their pump"
    ),
    f"{STREAMER}TestCallbacks::test_empty_astream_reports_error": PRODUCER,
    f"{STREAMER}TestCancellation::test_astream_events_v3_cancellation_propagates": PRODUCER,
    f"{V3}TestAsyncChatModelStream::test_text_await": PUSHES,
    f"{V3}TestAsyncChatModelStream::test_text_async_iter": PUSHES,
    f"{V3}TestAsyncChatModelStream::test_tool_calls_await": PUSHES,
    f"{V3}TestAsyncStreamAclose::test_aclose_cancels_producer_task": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_async_context_manager_closes_stream": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_aclose_propagates_caller_cancellation": PRODUCER,
    f"{V3}TestAsyncStreamAclose::test_aclose_before_producer_starts_resolves_projections": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_fires_on_llm_error_for_tracing": FORGED,
    f"{V3}TestAsyncStreamAclose::test_aclose_preserves_successful_stream_mid_on_llm_end": PRODUCER,
    f"{V3}TestCacheHitV2Replay::test_acache_hit_replays_events_to_v2_handler": OTHERS,
    f"{V3}test_v3_gateway_metadata_is_tracing_only_async[True]": OTHERS,
    f"{V3}test_v3_gateway_metadata_traced_on_error_async[False]": PRODUCER,
    f"{V3}test_v3_gateway_metadata_traced_on_error_async[True]": PRODUCER,
}
