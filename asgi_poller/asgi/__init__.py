"""Protocol to ASGI and back: scopes, exchanges, channels and the lifespan."""
