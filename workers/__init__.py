"""The processes beside the web: the worker that drains and the clock.

Shells only: they own signals, threads and RQ; what is done is `evoflask`'s. Nobody imports
this package, RQ finds `workers.jobs` by its name.
"""
