"""What holds for every test."""

from hypothesis import settings

# An example's time is the machine's matter: a loaded one would fail what is right.
settings.register_profile("asgi_poller", deadline=None)
settings.load_profile("asgi_poller")
