"""What an archive holds, where it lies, and from when on it counts.

Start with `layout`, which names every file, then `commits`, the record that a transfer is complete.
"""
