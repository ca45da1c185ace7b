"""Every way to get a listening socket."""
