"""Primitives that know anyio and nothing of LangChain.

`event` and `queue` port asyncio's, `projection` shows deltas and a final value to any number of consumers.
Below them: `wakeup` parks tasks, `checkpoints` makes each step a cancellation point, and `backpressure`
holds a producer back.
"""
