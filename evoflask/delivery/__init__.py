"""The drain: what empties lanes. Knows no Flask, and no sink by name.

`drain` is the loop, `lanes` says whose turn it is; `retry` and `breaker` are pure: what
follows from one attempt, for the event and for its lane. Imported by nobody but the
process shells.
"""
