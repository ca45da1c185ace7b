"""The front end: listeners, MasterPoller threads and the lanes to the cores."""
