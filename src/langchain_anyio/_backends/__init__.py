"""asyncio and trio by name: event loops, waiters, tasks that outlive their caller, async-generator hooks."""
