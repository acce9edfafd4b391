"""The ``whet`` command: noun, then verb; data on stdout, progress and diagnostics on stderr.

Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 gate or verification failed, 5 conflict or lock, 6 refused,
130 interrupted.
"""
