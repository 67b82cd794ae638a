"""Servers that belong to one run: what `make run` starts, and what the tests start.

Nothing here is imported by a process that serves. Everything that is started has a process
group of its own and ends with whoever started it, however that one ends.
"""
