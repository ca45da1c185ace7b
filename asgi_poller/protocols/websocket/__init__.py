"""WebSocket: the handshake, frames, messages, compression."""
