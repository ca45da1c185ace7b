"""What is counted, where the counts are kept, and what a reader sees of them. No sockets, no loop.

The counts themselves are made in the rooms where things happen; `monitor/` shows them.
"""
