"""What people start: the command line (``whet``).

$ whet init
$ whet run world:7
$ whet memory why 7f3a
"""
