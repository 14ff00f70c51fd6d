"""A real Slurm of one node, in a temporary folder, on free ports: munged, slurmctld and slurmd of our own, ended by pid."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
CONF = """ClusterName=kdlib
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
SlurmctldTimeout=15
KillWait=5
MinJobAge=600
SchedulerParameters=sched_interval=5,bf_interval=5,sched_min_interval=200000
RebootProgram=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 DefaultTime=10 State=UP OverSubscribe=NO
"""


def missing() -> str:
    """Why no cluster can be started here; "" if one can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if lacking := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        return f"no {', '.join(lacking)} on the path: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting Slurm's daemons needs root"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """`start()`, `submit(script)`, `wait(job)`, `stop()`; `env` is what sbatch and its like need to find it."""

    def __init__(self, place: Path):
        self.place, self.processes = place, {}
        for name in ("state", "spool", "munge"):
            (place / name).mkdir(parents=True)
        os.chmod(place, 0o755), os.chmod(place / "munge", 0o700)
        conf = place / "slurm.conf"
        conf.write_text(
            CONF.format(host=socket.gethostname().split(".")[0], place=place, ports=_free_ports(2))
        )
        key = place / "munge" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        # SLURM_*: nothing of a job that these tests may themselves run in
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.env |= {"SLURM_CONF": str(conf), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

    def start(self) -> "Cluster":
        m = self.place / "munge"
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--socket={self.place}/munge.sock",
            f"--key-file={m}/munge.key",
            f"--pid-file={m}/munged.pid",
            f"--seed-file={m}/seed",
            f"--log-file={m}/munged.log",
        )
        self._until(lambda: (self.place / "munge.sock").exists(), "munged did not open its socket")
        self._daemon("slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        self.start_node()
        self._until(
            lambda: "idle" in self.tell("sinfo", "-h", "-o", "%T"), "the node did not become idle"
        )
        return self

    def start_node(self) -> None:
        self._daemon("slurmd", "-D", "-f", self.env["SLURM_CONF"])

    def kill_node(self) -> None:
        """The node fails: slurmd and everything that it had started is gone at once."""
        import psutil

        for one in self._started():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.processes.pop("slurmd").wait()

    def _started(self) -> list:
        """slurmd, then step managers, then what they run. They leave slurmd for init, but a job keeps our SLURM_CONF in its environment,
        and its parent is its step manager: which would tell the controller of its death, were it not dead before."""
        import psutil

        spared = {os.getpid()}
        for name in ("munged", "slurmctld"):
            with suppress(psutil.NoSuchProcess, KeyError):
                one = psutil.Process(self.processes[name].pid)
                spared |= {one.pid, *(child.pid for child in one.children(recursive=True))}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    process.pid not in spared
                    and process.environ().get("SLURM_CONF") == self.env["SLURM_CONF"]
                ):
                    found.append(process)
        managers = []
        for process in found:
            with suppress(psutil.Error):
                if (
                    (parent := process.parent())
                    and parent.name().startswith("slurmstepd")
                    and parent not in managers
                ):
                    managers.append(parent)
        daemon = (
            [p for p in found if p.pid == self.processes["slurmd"].pid]
            if "slurmd" in self.processes
            else []
        )
        return [*daemon, *managers, *(p for p in found if p not in daemon)]

    def _daemon(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=self.env["PATH"])
        with open(self.place / f"{name}.out", "ab") as out:
            self.processes[name] = subprocess.Popen(
                [program, *arguments], env=self.env, stdout=out, stderr=out, start_new_session=True
            )

    def _until(self, true, sentence: str, seconds: float = 30) -> None:
        late = time.monotonic() + seconds
        while not true():
            if time.monotonic() > late:
                logs = "".join(
                    f"\n{p.name}: {p.read_text(errors='replace')[-600:]}"
                    for p in self.place.glob("*.log")
                )
                raise TimeoutError(sentence + logs)
            time.sleep(0.2)

    def tell(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() or done.stderr.strip()

    def submit(self, script: str, *options: str) -> str:
        """The job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options],
            input=script,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split(";")[0]

    def state(self, job: str) -> set[str]:
        """The states of a job's tasks, as squeue has them (finished ones for MinJobAge seconds)."""
        return set(self.tell("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split())

    def wait(
        self,
        job: str,
        seconds: float,
        until=lambda states: not states & {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"},
    ) -> set[str]:
        self._until(
            lambda: until(self.state(job)), f"job {job} is still {self.state(job)}", seconds
        )
        return self.state(job)

    def stop(self) -> None:
        with suppress(Exception):
            self.tell("scancel", "--user=root")
            self._until(lambda: not self.tell("squeue", "-h"), "", 15)
        for process in self._started():
            with suppress(Exception):
                process.kill()
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
                continue
            process.kill()
