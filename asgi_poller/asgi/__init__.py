"""HTTP and WebSocket as ASGI sees them: scope, lifespan, flow control, access log."""
