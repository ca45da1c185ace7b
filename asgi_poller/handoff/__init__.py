"""From a poller to an event loop: lanes, descriptor passing, shared counters."""
