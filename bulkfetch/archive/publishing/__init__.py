"""How a record and its files replace those before: step by step, each found done or not.

`docs/protocol.md` says why the steps stand in this order. A run publishes, and the next run
finishes what a killed one began, by the same steps: each looks at the names and contents that are
there.
"""
