"""One event loop and what lives on it: its server, connections, timers."""
