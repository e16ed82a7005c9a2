"""Provider models on any event loop: their HTTP clients (`http_clients`), in views (`views`)."""
