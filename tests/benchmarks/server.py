"""The scripted server in a process of its own, so that it shares no interpreter lock with what is measured."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]


def serve(pipe):
    from scripted_server import ScriptedServer
    from scripts import Scripts

    scripts, sizes = Scripts(), []
    with ScriptedServer(lambda body: _measured(body, scripts, sizes), keep=False) as server:
        pipe.send(server.url)
        while pipe.recv() != "stop":
            told = {"calls": server.count, "max_in_flight": server.max_in_flight, "prompt_chars": list(sizes)}
            server.count = server.max_in_flight = 0
            sizes.clear()
            pipe.send(told)


def _measured(body, scripts, sizes):
    sizes.append(sum(len(str(message["content"])) for message in body["messages"]))
    return scripts(body)


class Server:
    """``with Server() as server``: ``server.url``; ``server.read()`` gives calls, most in flight and the characters of
    each prompt since it was last read.
    """

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there,), daemon=True)
        self._process.start()
        self.url = self._pipe.recv()
        return self

    def read(self):
        self._pipe.send("read")
        return self._pipe.recv()

    def __exit__(self, *_):
        self._pipe.send("stop")
        self._process.join(10)
