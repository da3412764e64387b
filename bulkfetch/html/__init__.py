"""The page of an archive: one HTML file for people, made from its records alone.

Start with `writing`, then `page`: `figures` and `history` say what is on it, `charts` draws it.
"""
