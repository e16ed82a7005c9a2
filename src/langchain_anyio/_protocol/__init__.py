"""The protocol, without I/O.

`chunk_converter` turns chunks into events, and `accumulator` turns events into a message.
"""
