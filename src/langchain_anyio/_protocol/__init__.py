"""The protocol, without I/O: `accumulator` makes a message of events, `chunk_converter` events of chunks."""
