"""One request, well sent: limited, paced, retried.

Start with `session`: `get` sends with retry, within the limit, once.
"""
