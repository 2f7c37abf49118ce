"""The process of Prefect's temporary server. It is run as a script: `temporary_server.py SOCKET PARENT`.

It answers on a listening socket that it inherits, so that the address stays while it is started anew, and it ends with
the process that it serves, however that one ends. It imports nothing of ours: flexseg may not be installed.
"""

import os
import socket
import sys
import threading
import time

LOOK_S = 1.0
"""How often it looks whether its parent lives. (The kernel could tell, by PR_SET_PDEATHSIG, but it takes the end of the
thread that started the process for the end of the parent.)"""


def end_with(parent: int) -> None:
    """Ends this process when its parent is another one than `parent`, which it is as soon as that has ended."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)  # SQLite's file stands a kill, and nobody is left to answer


def serve(descriptor: int) -> None:
    """Prefect's API without its pages, on the socket of that file descriptor, until SIGTERM."""
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[2]),), daemon=True).start()
    serve(int(sys.argv[1]))
