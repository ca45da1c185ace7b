"""One process serves: its event loops, its pollers, their limits and TLS."""
