"""What all tests share."""

import os
import signal

from hypothesis import HealthCheck, settings

# The models of the tests are small: a second thread only waits for the first, and on a busy machine for its turn.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("whet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whet")

# A test run that was started in the background ignores Ctrl-C, and so would every program it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
