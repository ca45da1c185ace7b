"""HTTP/2, server side: bytes to events and back (RFC 9113, RFC 8441), on the h2 library."""
