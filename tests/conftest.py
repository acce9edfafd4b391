"""What all tests share."""

import signal

# A test run that was started in the background ignores Ctrl-C, and so would every program it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
