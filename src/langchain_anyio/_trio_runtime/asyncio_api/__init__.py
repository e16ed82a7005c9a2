"""The names of asyncio that libraries use, on trio: each file ports one part of asyncio."""
