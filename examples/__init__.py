"""Applications to try the server with: each module says how to run it."""
