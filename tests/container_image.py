"""An image for tests of containers, made of this interpreter: no registry is needed, and what it holds is known."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from dszig_py.environments.packages import find_packages

LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "__pycache__"}
NAME = "localhost/dszig-test:latest"
# Podman as it comes; without rights over limits (root in a container or a small machine); with the older runtime, which
# runs where control groups of both kinds are mounted.
SETTINGS = ("", '[containers]\ndefault_ulimits = ["nofile=256:256", "nproc=4096:4096"]\n')
RUNTIMES = ("", '[engine]\nruntime = "runc"\n')


def import_image(engine: str) -> str:
    """Make the image; its name. The one of an earlier run, nameless from then on, is removed: they are 80 MB each."""
    before = subprocess.run([engine, "images", "--quiet", NAME], capture_output=True, text=True).stdout.split()
    with subprocess.Popen([engine, "import", "-", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdin, mode="w|") as tar:
            _fill(tar)
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0
    if before:
        subprocess.run([engine, "rmi", *before], capture_output=True)  # refused where a container still runs it
    return NAME


def settings_that_work(engine: str, folder: Path, image: str) -> dict[str, str]:
    """Environment variables with which the engine runs a container here. Raises what it said where none do."""
    for number, settings in enumerate(a + b for b in RUNTIMES for a in SETTINGS):
        path = folder / f"containers-{number}.conf"
        path.write_text(settings)
        environ = {"CONTAINERS_CONF": str(path)} if settings else {}
        command = [engine, "run", "--rm", "--network", "none", "--memory", "256m", "--pids-limit", "50", image]
        done = subprocess.run(
            [*command, "python3", "-c", ""], env={**os.environ, **environ}, capture_output=True, text=True, timeout=120
        )
        if done.returncode == 0:
            return environ
    raise RuntimeError(f"{engine} runs no container here: {done.stderr.strip()[-300:]}")


def _fill(tar: tarfile.TarFile) -> None:
    library = Path(os.__file__).parent
    to = f"usr/local/lib/{library.name}"
    program = os.path.realpath(sys.executable)
    linked = [program]
    for folder in ("tmp", "run", "etc", "proc", "sys", "dev", "usr/local/bin"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.is_file() and not LEFT_OUT & set(inside.parts) and not inside.parts[0].startswith("config-"):
            tar.add(path.resolve(), f"{to}/{inside}")
            if path.suffix == ".so":
                linked.append(str(path))
    for _name, file, is_package in find_packages(("pydantic",)).modules:
        path = os.path.dirname(file) if is_package else file
        tar.add(path, f"{to}/site-packages/{os.path.basename(path)}")
        linked += [str(p) for p in Path(path).rglob("*.so")] if is_package else []
    tar.add(program, "usr/local/bin/python3")
    shells = {"bin/sh": "/bin/sh"}
    for name, path in shells.items():
        tar.add(os.path.realpath(path), name)
        linked.append(path)
    for path in _libraries(linked):
        tar.add(os.path.realpath(path), path.lstrip("/"))
    passwd = b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    entry = tarfile.TarInfo("etc/passwd")
    entry.size = len(passwd)
    tar.addfile(entry, io.BytesIO(passwd))


def _libraries(files: list[str]) -> set[str]:
    said = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+\.so\S*) \(0x", said))
