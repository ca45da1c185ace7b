"""HTTP/1.1: requests from bytes to events, responses to bytes."""
