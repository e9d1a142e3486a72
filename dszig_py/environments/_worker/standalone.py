"""A worker by itself, for a container: ``python3 -s -P standalone.py REQUEST``, frames on standard input and output.

REQUEST is JSON: ``max_frame``, ``address_space`` (bytes, or null) and ``inputs`` as [name, kind, file, bytes], with what is
known of it where it is a file of the caller's: ``same``, the device and inode that the host has judged. No
zygote and no filter of its own: the container is the boundary. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import zygote  # only after the line above can it be found

sys.path.pop(0)


class Pipes:
    """What a channel needs of a socket, over the two descriptors that were standard input and output."""

    def __init__(self) -> None:
        self.reading, self.writing = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # whatever else writes to these is no frame
            os.dup2(null, fd)
        os.close(null)

    def fileno(self) -> int:
        return self.reading

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.writing, view) :]

    def recv_into(self, view: Any) -> int:
        data = os.read(self.reading, len(view))
        view[: len(data)] = data
        return len(data)


def end_with(fd: int) -> None:
    """Leave when the host's end of ``fd`` is gone: a cell that never reads would otherwise run on in its container."""
    watch = select.poll()
    watch.register(fd, 0)  # POLLHUP and POLLERR come unasked
    while not watch.poll():
        continue
    os._exit(0)


def load(spec: list[Any]) -> tuple[str, Any]:
    name, kind, path, size, *about = spec
    same = about[0].get("same") if about else None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermissionError(
            f"input {name!r}: {error.strerror}; who reads in there is nobody, not the caller"
        ) from None
    try:
        found = os.fstat(fd)
        if same is not None and same != [found.st_dev, found.st_ino]:
            raise RuntimeError(f"input {name!r}: what is mounted is not what was opened; was it replaced meanwhile?")
        return zygote.load_input([name, kind, 0, size, *about], [fd])
    finally:
        os.close(fd)


def main() -> None:
    request = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until a cell runs
    pipes = Pipes()
    try:
        if request["address_space"] is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (request["address_space"], request["address_space"]))
        threading.Thread(target=end_with, args=(pipes.reading,), daemon=True).start()
        values = dict(load(spec) for spec in request["inputs"])
        zygote.Worker(pipes, request["max_frame"]).serve(values, ["container"])
    except zygote.channel.HostGone:
        pass
    except BaseException as error:
        zygote.report(pipes.writing, error)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
