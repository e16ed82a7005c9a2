"""One run of a chat model (`model`) or of a graph (`graph`), in background tasks that belong to the stream."""
