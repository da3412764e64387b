"""Where bytes are kept: a directory, S3, Azure Storage, Google Cloud Storage.

Start with `store`, which is all that an archive asks of any of them.
"""
