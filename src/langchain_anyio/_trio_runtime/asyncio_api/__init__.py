"""Ports of asyncio's names to trio: each module ports one part of asyncio."""
