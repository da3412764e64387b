"""The first page source: what Partner Center serves, and how it is requested.

Start with `offsets`, which yields the pages of one transfer in order; `ahead` requests them.
"""
