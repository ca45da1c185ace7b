"""Who accepts: MasterPoller threads, their pool, limits, descriptor exhaustion."""
