"""asyncio and trio by name.

- `current`: the running backend and the current task; `event_loops`: the loop, from any thread.
- `waiters`: what a task parks on; `tasks`: tasks that outlive the call that starts them.
- `cancellation`: cancellation exceptions, and waiting in spite of them.
- `timers`: timers of the event loop, and a limit on each of many waits.
- `async_generators`: the generators that a run starts; `leaks`: warnings.
"""
