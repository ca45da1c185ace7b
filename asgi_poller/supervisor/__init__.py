"""Processes: the server in one process, and the supervisor with its workers."""
