"""Give whole requests to the threads of the web process.

    arrival.py   how much of one request has arrived; pure
    visitor.py   a connection, its states, and the bounds of a client's time and bytes
    account.py   bytes that are held; pure
    turns.py     which request gets the next thread; pure
    answers.py   the server's own answers, and the account of the application's
    worker.py    gunicorn's threaded worker, whose poller receives requests and closes connections

Floor: beside `web`, which it does not know; only gunicorn's configuration imports it.
"""
