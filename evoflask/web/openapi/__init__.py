"""The API's own documentation: `/openapi.json` for programs, `/docs` for people.

document.py   every route, by what its view says of itself
convert.py    marshmallow's fields as JSON Schema
bodies.py     bodies as they are documented
pages.py      the document as one page, without a script and without anything from elsewhere
"""
