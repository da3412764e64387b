"""What the user decides.

Start with `declared`: every setting, with its default and the sentence that explains it.
"""
