"""What is asked of an archive that is there: what it has, whether that is sound and complete, to
mend it, to accept a difference, to delete what was replaced. `show` is the shortest; `verify`
says what holds, and `repair` begins with its report.
"""
