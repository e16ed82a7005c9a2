"""Primitives that know anyio and nothing of LangChain.

- `event` and `queue` port those of asyncio.
- `projection` shows deltas and a final value to any number of consumers, `batches` several deltas
  at once.
- `wakeup` parks tasks, `checkpoints` makes each step a cancellation point, and `backpressure`
  holds a producer back. The others are built on these.
"""
