"""asgi-poller beside its peers: `python -m benchmarks`. The load comes from asgi_poller.storm.

__main__ ── options    headline ── the big runs    tables ── results to Markdown and SVG
runner ── interleaved rounds, results              summary ── the README's table
goals ── what was to be reached                    charts ── bar charts
scenarios ── what is run    measures ── how one figure is taken    http_load ── HTTP requests
peers ── command lines    environments ── venvs, builds    interpreters ── what runs the servers
servers ── a server process    machine ── what it ran on    applications/ ── what they serve
"""
