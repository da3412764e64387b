"""What is spoken of: invoices, their details, transfers, documents, and the columns of line items.

Plain values that load no network library. Start with `invoices` and `transfers`.
"""
