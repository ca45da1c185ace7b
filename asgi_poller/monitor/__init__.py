"""The monitor's port (`--metrics`): what a running server shows of itself, and to whom.

It has a thread, a loop and a loop server of its own, so that it answers while the application's
loops are blocked, and nothing that happens on it counts in what it shows.
"""
