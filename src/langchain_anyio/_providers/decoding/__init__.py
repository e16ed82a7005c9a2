"""Decoding of streamed answers without the models of the provider's SDK.

The SDK sends the request, reads the response, recognizes errors and the end, and closes; only its
decoder of server-sent events and the place where it makes its models are replaced, stream by stream
(`streams`). `events` splits the bytes into events. One file for each wire format says which events
are decoded here: those that nearly all of an answer consists of, with fields that are known and
valid. Every other event is made by the SDK. The results are equal.

- `clients`: SDK clients whose streams are decoded.
- `streams`: one stream of an SDK, and the mark of its end.
- `openai_chat`, `openai_responses`, `anthropic_messages`: the wire formats.
- `shapes`, `light`: which data a model takes as it is, and what stands in for a model.
- `events`: server-sent events from bytes, without I/O.
"""
