"""Provider models on any event loop.

`table` says which class of which provider is adapted by which module; each of those makes a view
(`views`) of a model, with an HTTP client of the running event loop (`http_clients`). Attributes
that the model sets on itself in a call are set on the user's object.

`decoding` replaces the models that the SDKs of OpenAI and Anthropic make of each event.

A private name of a provider's package is used in that provider's module alone. Where it is not as
expected, the model runs unchanged.
"""
