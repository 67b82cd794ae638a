"""evoflask delivers events of many tenants to their sinks, at least once and visibly.

The floors, from the top. A module imports only floors below its own:

    cli                                       flask --app app ...
    web | gateway | delivery | dev            HTTP · sockets · the drain · embedded servers
    manager | deadletters | configuration     the ways in, and back in
    routing                                   who gets what, and why not
    ordering                                  which events keep their order
    sinks | models | outbox                   destinations · rows · Redis keys
    schemas | formats                         bodies in · bodies out
    events | net | signing | db               the catalogue · the guard · signatures · SQL
    settings | log | metrics
    errors | ids

`app.py` puts the HTTP process together, `workers/` the worker and the clock.
"""

__version__ = "0.1.0"
