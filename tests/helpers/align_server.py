"""Runs `align` commands in forks of a process that has the libraries imported.

align_server.py --serve=FD          the server, on a listening Unix socket, until its standard input closes
align_server.py SOCKET ARGUMENTS    a client: `align ARGUMENTS`, with this process's files, folder and environment
"""

import array
import json
import os
import selectors
import signal
import socket
import sys

STREAMS = (0, 1, 2)
KILL = "ALIGN_TEST_KILL"  # in the environment: a JSON list of the phase and the step at which the command kills itself
KILLED = 128 + signal.SIGKILL


def ask(path: str, arguments: list[str]) -> int:
    """Have a command run, and pass on the signals that ask it to end; returns its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = json.dumps({"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], STREAMS)
        connection.sendall(request)
        response = connection.makefile()
        process = int(response.readline())
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda signum, frame: os.kill(process, signum))
        return int(response.read() or KILLED)


def serve(listening: socket.socket) -> None:
    import datasets  # noqa: F401
    import lm_eval.models.huggingface  # noqa: F401
    import trl  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: F401
    from trl import DPOTrainer, RewardTrainer, SFTTrainer  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listening, selectors.EVENT_READ)
        while not any(key.fileobj is sys.stdin for key, _ in selector.select()):
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                run(connection)
            connection.close()


def run(connection: socket.socket) -> None:
    """In the fork: become the command, and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, 4, len(STREAMS))
    request = json.loads(connection.makefile().read(int.from_bytes(head, "big")))
    connection.sendall(f"{os.getpid()}\n".encode())
    for mine, given in zip(STREAMS, array.array("i", streams), strict=True):
        os.dup2(given, mine)
        os.close(given)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["align", *request["arguments"]]
    code = 1
    try:
        import align

        if KILL in os.environ:
            import kills

            kills.arm(*json.loads(os.environ[KILL]))
        code = align.main(sys.argv[1:])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(code).encode())  # the client waits for the end of this process all the same
        sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1].startswith("--serve="):
        serve(socket.socket(fileno=int(sys.argv[1].removeprefix("--serve="))))
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
