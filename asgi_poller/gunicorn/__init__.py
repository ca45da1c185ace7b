"""The gunicorn worker class: `gunicorn -k asgi_poller.gunicorn.PollerWorker main:app`.

- worker.py: the worker's life, with signals and heartbeat
- turns.py: which worker accepts
- settings.py: from gunicorn's settings to a Config
- tls.py: gunicorn's hook for TLS
- access_log.py: gunicorn's access log, in gunicorn's format
"""

from asgi_poller.gunicorn.worker import PollerWorker

__all__ = ["PollerWorker"]
