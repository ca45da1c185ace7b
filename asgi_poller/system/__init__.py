"""The host system: pid file, service manager, signals, users, forks."""
