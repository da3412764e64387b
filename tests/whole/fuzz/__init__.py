"""Bodies, header sets and whole answers that nobody would send, and what must become of each of
them."""
