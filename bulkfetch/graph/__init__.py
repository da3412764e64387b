"""The second page source: Microsoft Graph's billing export, from the request to the last row.

Begin reading at `source`, which gives the pages of a transfer, then `operations` and `spool`.
"""
