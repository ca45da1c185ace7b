"""The table of options: one declaration each, from which come the attributes of `Config`, the
command line, the environment variables, the TOML file and the settings page. Nothing in here acts
on a setting.

    kinds.py      how a sort of value is written, read and checked
    option.py     what is known of one option
    addresses.py  how an address to listen on is written
    listening.py, process.py, protocol.py, edge.py, application.py   the declarations, by subject
    uvicorn.py    options of uvicorn's that are accepted and turned into ours
    table.py      all of them by name; the nearest name to a mistyped one
    sources.py    environment and TOML file to options
"""
