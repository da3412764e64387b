"""Export: from the plan to the report.

Start with `export`, then `transfers`: one transfer from its first page to its commit.
"""
