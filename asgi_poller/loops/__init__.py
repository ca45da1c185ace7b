"""One event loop and what lives on it: connections, timers, flow control."""
