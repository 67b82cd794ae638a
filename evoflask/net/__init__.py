"""The way out: which addresses may be reached (`guard`, pure) and the HTTP client that
obeys it (`http`, aiohttp). Imports settings and what is below."""
