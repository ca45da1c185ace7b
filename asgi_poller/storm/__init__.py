"""A connection-storm and load tester for any WebSocket server (Linux). It imports nothing else of
this package.

    cli ── what a person types        fleet ── the client processes, their clock and their totals
    report, svg, summary, live ── what a person reads
    worker ── one client process ── modes (what a channel does once open)
                                 ── client (dial, handshake, deadlines: one epoll loop)
    plan, handshake, frames, stats, limits, probe ── leaves
"""
