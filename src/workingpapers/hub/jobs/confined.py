"""Runs a command within limits: `python -m workingpapers.hub.jobs.confined SECONDS GIB COMMAND…`.

It limits itself and then becomes the command, so that the process that starts it, which has
threads, need not run Python between fork and exec.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

LARGEST_FILE = 2**30  # bytes
NEW_USER, NEW_NET = 0x10000000, 0x40000000  # of <sched.h>
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def limit(seconds: int, gigabytes: int) -> None:
    """Bound processor time, address space, size of a file; leave no core behind."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    for what, most in (
        (resource.RLIMIT_CPU, seconds * cores),
        (resource.RLIMIT_AS, gigabytes * 2**30),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def die_with_parent() -> None:
    """On Linux: end when the worker is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)


def cut_off() -> bool:
    """On Linux, where it is allowed: no network but for this process itself."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_NET):
        return False
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{user} {user} 1")
    (own / "gid_map").write_text(f"{group} {group} 1")
    return True


def main(arguments: list[str]) -> None:
    """Limit this process and become the command."""
    seconds, gigabytes, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if not cut_off():
        sys.stderr.write("this system does not let the check be cut off from the network\n")
    die_with_parent()
    limit(seconds, gigabytes)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
