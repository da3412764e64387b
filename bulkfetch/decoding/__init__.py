"""JSON to Arrow without changing a value.

Start with `pages`, which turns the bytes of a page into a record batch.
"""
