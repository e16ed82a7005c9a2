"""Providers' models on any event loop: `http_clients` chooses the client, `views` keep the user's model as it is."""
