"""Who asks: the ways to a token.

Start with `ways`, which chooses one, then `source`, which keeps the token fresh for everyone.
"""
