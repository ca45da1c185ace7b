"""`python -m asgi_poller`."""

from asgi_poller.cli import main

if __name__ == "__main__":
    main()
