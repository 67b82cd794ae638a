"""The way out: which addresses may be reached (`guard`, and `aws` for queues; pure) and the
HTTP client that obeys the first (`http`, aiohttp). Imports settings and what is below."""
