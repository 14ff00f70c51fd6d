"""Papermill with kernels that pick their own ports, with papermill's own options:

    python -m kdlib.batch.kernel IN.ipynb OUT.ipynb …

jupyter_client looks for five free TCP ports, lets go of them, and the kernel binds them a second
later; a kernel (or any program) that starts in between can take one, and the notebook dies before
its first cell. Its list of ports given away holds within one process only, and every run here is a
process of its own. But ipykernel takes port 0 in its connection file as "whichever is free", binds
it, and writes the number into the file: no port is ever free between choice and use. Unlike an IPC
transport that works on Windows too, and unlike a lock around the start nobody waits for anybody.
"""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.connect import port_names
from papermill.engines import NBClientEngine, papermill_engines
from traitlets import default

# From process to bound ports: imports alone can take a minute on a cluster's disk.
START_SECONDS = 300


class KernelManager(AsyncKernelManager):
    """Hands the kernel zeros for ports and waits until it has written what it bound."""

    @default("cache_ports")
    def _default_cache_ports(self) -> bool:
        return False  # or the provisioner would choose the ports beforehand

    def write_connection_file(self, **kwargs) -> None:
        super().write_connection_file(**kwargs)
        file = Path(self.connection_file)
        connection = json.loads(file.read_text()) | dict.fromkeys(port_names, 0)
        file.write_text(json.dumps(connection))
        # ours, too: `load_connection_file` fills in only the ports that are still 0
        for name in port_names:
            setattr(self, name, 0)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw) -> None:
        # not super's: that compares the file with the zeros, which a quick kernel may have
        # replaced already
        await self.provisioner.launch_kernel(kernel_cmd, **kw)
        late = time.monotonic() + START_SECONDS
        while not all(getattr(self, name) for name in port_names):
            ended = await self.provisioner.poll() is not None
            if ended or time.monotonic() > late:
                raise RuntimeError(
                    "the kernel did not start "
                    f"(its process ended, or bound no ports in {START_SECONDS} s)"
                )
            await asyncio.sleep(0.05)
            try:
                self.load_connection_file()
            except (OSError, json.JSONDecodeError):
                pass  # the kernel is writing it: removed, empty, or half there


class Engine(NBClientEngine):
    """Papermill's own engine, with our kernels."""

    @classmethod
    def execute_managed_notebook(cls, *args, **kwargs):
        return super().execute_managed_notebook(*args, kernel_manager_class=KernelManager, **kwargs)


def end_with_parent() -> None:
    """End when whoever started us is gone: nobody would read what we write.

    The kernel ends with us, for it watches its parent as well.
    """
    parent = os.getppid()

    def watch():
        # an orphan is given another parent
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    from papermill.cli import papermill

    papermill_engines.register(None, Engine)  # None: the engine that papermill takes by default
    papermill()
