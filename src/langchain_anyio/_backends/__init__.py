"""Code specific to asyncio or trio: loops, waiters, background tasks, async-generator hooks."""
