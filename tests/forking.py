"""A ``stmcdi`` that starts in milliseconds, for tests of the workflow: what it runs is forked from a process that has
imported everything. Starting Python and importing torch is most of the work of the small tasks there.

    forking.py FOLDER    serve, until the parent process is gone

The client hands over its arguments, environment, folder and standard streams; the fork runs the real command line.
There are two servers, since the memory that a step takes by itself counts for its --memory-limit: one has imported
torch.
"""

import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({folder!r} + ("/torch" if sys.argv[1:2] in {heavy!r} else "/light"))
umask = os.umask(0)
os.umask(umask)
words = json.dumps([sys.argv[1:], os.getcwd(), umask, dict(os.environ)]).encode()
socket.send_fds(server, [len(words).to_bytes(4, "big")], [0, 1, 2])
server.sendall(words)
child = int.from_bytes(server.recv(4), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: os.kill(child, number))
sys.exit(int.from_bytes(server.recv(1) or b"\\1", "big"))
"""


HEAVY = [["train"], ["impute"], ["run"]]
"""Commands that import torch."""
LIGHT = ("anndata.io", "stmcdi_cli.cli.commands", "stmcdi_cli.steps.build_graph", "stmcdi_cli.steps.evaluate")
"""What the other commands import."""


def write_client(folder: Path) -> None:
    """Write a program ``stmcdi`` that asks the servers in a folder."""
    program = folder / "stmcdi"
    program.write_text(CLIENT.format(python=sys.executable, folder=str(folder), heavy=HEAVY))
    program.chmod(0o755)


def serve(address: str) -> None:
    """Fork a process for each client."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    parent = os.getppid()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    listener.settimeout(5)
    while os.getppid() == parent:
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            _run(client)
        client.close()


def _run(client: socket.socket) -> None:
    """Run the command line as the client, and end as it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    client.settimeout(None)
    length, streams, _, _ = socket.recv_fds(client, 4, 3)
    words = b""
    while len(words) < int.from_bytes(length, "big"):
        words += client.recv(2**16)
    arguments, folder, umask, environment = json.loads(words)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    client.sendall(os.getpid().to_bytes(4, "big"))

    from stmcdi_cli.cli import main

    code = 1
    try:
        main(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python ends
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(code.to_bytes(1, "big"))
    os._exit(code)


if __name__ == "__main__":
    light = os.fork() == 0
    for module in LIGHT if light else ("robustness_imports",):
        importlib.import_module(module)
    serve(f"{sys.argv[1]}/{'light' if light else 'torch'}")
