"""How requests get to a thread of the web process: whole, or not at all.

    arrival.py   how much of one request has arrived; pure
    worker.py    gunicorn's threaded worker, whose poller receives and says goodbye

Floor: beside `web`, which it does not know; nobody but gunicorn's configuration imports it.
"""
