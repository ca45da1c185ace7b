"""An ASGI server for WebSockets first: accept threads that never wait feed per-core event loops."""
