"""macOS or Windows for relrank's own code, on Linux: Python imports this first where its folder is on the path.

``RELRANK_SIMULATE`` is "darwin" or "win32", also in processes that are started. Modules of relrank see the modules
``os``, ``sys``, ``signal``, … without what these systems lack, no files of Linux's kernel, no fork, and no text files
in an encoding that depends on the system; on Windows also no rename or deletion of what is open. Other packages see
Linux.

``RELRANK_ONLY`` is a list of distributions, separated by commas: only these and what they need can be imported.
"""

import builtins
import ctypes
import os
import select
import signal
import socket
import sys
import warnings
from types import ModuleType

from system_libraries import Library

SYSTEM = os.environ.get("RELRANK_SIMULATE", "")
ABSENT = {
    "darwin": {
        "os": "sched_getaffinity sched_setaffinity fork forkpty pidfd_open posix_fadvise fdatasync memfd_create "
        "eventfd copy_file_range splice O_TMPFILE O_PATH O_DIRECT getrandom process_cpu_count",
        "select": "epoll",
        "signal": "SIGPWR SIGRTMIN SIGRTMAX sigtimedwait",
        "socket": "AF_NETLINK AF_PACKET SO_BINDTODEVICE",
    },
    "win32": {
        "os": "sched_getaffinity sched_setaffinity fork forkpty sysconf getuid geteuid getgid getegid getgroups "
        "killpg setsid getsid setpgid getpgid nice getloadavg chown chroot statvfs fstatvfs fchown lchown uname "
        "mkfifo posix_spawn posix_fadvise fdatasync sync pread pwrite lockf sendfile wait wait3 wait4 "
        "register_at_fork confstr O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_SYNC O_DSYNC O_NOCTTY O_TMPFILE "
        "process_cpu_count",
        "select": "poll epoll",
        "signal": "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGQUIT SIGSTOP SIGCONT alarm setitimer "
        "pause pthread_kill pthread_sigmask sigwait siginterrupt",
        "socket": "AF_UNIX SO_REUSEPORT socketpair",
        "time": "tzset clock_gettime",
    },
}
MODULES = {"darwin": (), "win32": ("resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog")}
KERNEL_FILES = ("/proc/", "/sys/")
PASSES_ON = ("pathlib", "io", "os", "shutil", "contextlib", "tempfile", "ctypes", "sitecustomize", "codecs")


class Reduced(ModuleType):
    """A module without some names, and with others."""

    def __init__(self, real, absent=(), **others):
        super().__init__(real.__name__)
        self.__dict__["_parts"] = real, frozenset(absent), others

    def __getattr__(self, name):
        real, absent, others = self.__dict__["_parts"]
        if name in absent:
            raise AttributeError(f"module {real.__name__!r} has no attribute {name!r} on {SYSTEM}")
        return others[name] if name in others else getattr(real, name)

    def __setattr__(self, name, value):
        setattr(self.__dict__["_parts"][0], name, value)


def replacements():
    absent = {name: names.split() for name, names in ABSENT[SYSTEM].items()}
    libraries = {"WinDLL": Library, "get_last_error": lambda: 87} if SYSTEM == "win32" else {"CDLL": Library}
    import time

    return {
        "os": Reduced(os, absent["os"], name="nt" if SYSTEM == "win32" else "posix"),
        "sys": Reduced(sys, platform=SYSTEM),
        "select": Reduced(select, absent["select"]),
        "signal": Reduced(signal, absent["signal"]),
        "socket": Reduced(socket, absent["socket"], SO_EXCLUSIVEADDRUSE=socket.SO_REUSEADDR),
        "time": Reduced(time, absent.get("time", ())),
        "ctypes": Reduced(ctypes, (), **libraries),
    }


def is_relrank(name):
    return name == "relrank" or name.startswith("relrank.")


def simulate():
    reduced, real_import = replacements(), builtins.__import__

    def importing(name, globals=None, locals=None, fromlist=(), level=0):  # noqa: A002
        if level == 0 and is_relrank((globals or {}).get("__name__") or ""):
            top = name.partition(".")[0]
            if top in MODULES[SYSTEM]:
                raise ModuleNotFoundError(f"No module named {top!r} on {SYSTEM}", name=top)
            if name in reduced:
                return reduced[name]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = importing
    sys.addaudithook(audit)
    warnings.filterwarnings("error", category=EncodingWarning, module=r"relrank(\.|$)")
    if SYSTEM == "win32":
        sys.modules["uvloop"] = None


BUSY = []  # not while the hook itself looks


def audit(event, args):
    if BUSY or event not in ("open", "os.fork", "os.kill", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        return
    BUSY.append(event)
    try:
        check(event, args)
    finally:
        BUSY.pop()


def check(event, args):
    if event == "os.fork":
        raise AssertionError(f"a fork on {SYSTEM}")
    if event == "open":
        path = args[0]
        if isinstance(path, str) and path.startswith(KERNEL_FILES) and by_relrank():
            raise FileNotFoundError(2, f"no such file on {SYSTEM}", path)
        if SYSTEM == "win32" and isinstance(path, (str, os.PathLike)) and os.path.isdir(path) and by_relrank():
            raise PermissionError(13, "Windows cannot open folders", str(path))
    elif SYSTEM != "win32":
        return
    elif event == "os.kill":
        if args[1] == 0 and by_relrank():
            raise AssertionError("on Windows this ends the process")
    else:
        # a rename has two paths and two folders, a deletion one of each; -1 is the working directory
        paths = args[:2] if event == "os.rename" else args[:1]
        for path in paths if set(args[len(paths) :]) <= {-1, None} else ():
            refuse_in_use(os.path.abspath(os.fsdecode(path)))
        if event == "os.rename" and os.path.isdir(args[1]):
            raise PermissionError(13, "Windows replaces no folder", str(args[1]))


def by_relrank():
    """Whether relrank's code asks, itself or through a module that passes it on."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if is_relrank(name):
            return True
        if not (name in PASSES_ON or name.startswith(("pathlib.", "ctypes."))):
            return False
        frame = frame.f_back
    return False


def refuse_in_use(path):
    """Windows neither renames nor deletes what a program has open or mapped, or a folder of such files."""
    if path.endswith(".lock"):  # the library of locks does this on Linux only
        return
    for used in in_use():
        if used == path or used.startswith(path + os.sep):
            raise PermissionError(13, f"in use on Windows: {used}", path)


def in_use():
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        yield from {line.split(None, 5)[5].rstrip("\n") for line in maps if "/" in line}


if SYSTEM:
    simulate()
if os.environ.get("RELRANK_ONLY"):
    from bare_environment import allow_only

    allow_only(os.environ["RELRANK_ONLY"])
