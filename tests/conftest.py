"""What every test starts from."""

import signal

# Started in the background of a shell, this process and all it starts ignore Ctrl-C, and tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
