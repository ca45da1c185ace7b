"""`python -m asgi_poller.storm`."""

from asgi_poller.storm.cli import main

if __name__ == "__main__":
    main()
