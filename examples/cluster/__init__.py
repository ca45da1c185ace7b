"""One application on several machines: see README.md in this directory."""
