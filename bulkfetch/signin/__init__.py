"""Signing in: the ways to a token.

Start with `ways`, which chooses one, then `source`, which renews the token for all requests.
"""
