"""asgi-poller beside its peers: `python -m benchmarks`. The load comes from asgi_poller.storm.

__main__ ── options    headline ── the big runs    tables ── results to Markdown and SVG
runner ── interleaved rounds, results              charts ── bar charts
scenarios ── what is run    measures ── how one figure is taken    http_load ── HTTP requests
peers ── command lines    environments ── one venv for each    servers ── a server process
machine ── what it ran on                          applications/ ── what the servers serve
"""
