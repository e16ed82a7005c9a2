"""Runs of a chat model (`model`) or a graph (`graph`), in background tasks of the stream."""
