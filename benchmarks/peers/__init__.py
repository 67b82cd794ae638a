"""What a user would pick instead, each the best honest version of its approach.

A peer is two programs. One produces: it reads a file of lines {"url", "body"}, prints "ready",
begins once somebody writes into a named pipe, and prints {"seconds"} when all are kept. The other
works: it delivers each with a POST until SIGTERM. Every one retries what fails, keeps its
connections, and acknowledges a job after it was done.
"""
