"""What programs are kept in: users that own nothing, namespaces, limits, refused system calls.

As root a program runs under a user of its own, which the limit of processes binds (it does not bind
root); elsewhere in a user namespace, without any right in it. Linux alone has all of this. System
calls are refused on x86_64 and aarch64; elsewhere nothing bounds memory that processes share.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence

NAMESPACES: Mapping[str, int] = {
    "user": 0x10000000, "mount": 0x00020000, "network": 0x40000000, "ipc": 0x08000000,
    "pid": 0x20000000,
}  # fmt: skip
_OF_EACH_PROGRAM = ("ipc", "pid")
_FIRST_USER = 2_000_000_000  # users above it own no file and run nothing else
_LAST_USERS = 16
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "sbin", "usr")  # of the root; the rest is hidden
_LIBRARY = ("/mnt", "/srv", "/opt", "/media")  # where the interpreter's library is shown
_FOLDER = "/tmp"  # the program's own one
_OPEN_FILES = 64
_CLEARINGS, _CLEARING_S = 500, 0.01  # how often, and after how long, what is left is killed again

# linux/mount.h, linux/prctl.h, linux/seccomp.h, linux/capability.h
_RDONLY, _BIND, _REC, _PRIVATE = 1, 4096, 16384, 1 << 18
_PLAIN = 2 | 4 | 8  # without set-user-id files, devices and programs
_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_NO_NEW_PRIVS, _DEATH_SIGNAL, _COLLECTS_ORPHANS, _SECCOMP, _FILTER = 38, 1, 36, 22, 2
_CAPABILITIES = 0x20080522
# Architecture: its name in filters, the number of clone, and those of socket, socketpair, ptrace,
# unshare, setns, bpf, io_uring_setup, keyctl, add_key, perf_event_open, userfaultfd,
# process_vm_readv, process_vm_writev and mount; then of shmget, shmat, semget, msgget, mq_open and
# memfd_create, whose memory no limit of a process counts. All but clone are refused.
_REFUSED: Mapping[str, tuple[int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E, 56, (41, 53, 101, 272, 308, 321, 425, 250, 248, 298, 323, 310, 311, 165,
                         29, 30, 64, 68, 240, 319)
    ),
    "aarch64": (
        0xC00000B7, 220, (198, 199, 117, 97, 268, 280, 425, 219, 217, 241, 282, 270, 271, 40,
                          194, 196, 190, 186, 180, 279)
    ),
}  # fmt: skip
# open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, memfd_secret: of these
# and of clone3 the numbers are the same everywhere.
_REFUSED_EVERYWHERE = (428, 429, 430, 431, 432, 433, _MOUNT_SETATTR, 447)
_CLONE3 = 435  # absent, so that clone is used: its own flags lie where no filter looks
_NEW_NAMESPACES = 0x7E020000  # flags of clone
_FOREIGN = 0x40000000  # numbers from there on are those of another ABI (x32)
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06  # of the filter's machine
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # where a filter finds them
_ALLOW, _KILL, _DENY, _ABSENT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026  # EPERM, ENOSYS


def _map_of(kind: str) -> str:
    try:
        with open(f"/proc/self/{kind}_map") as file:
            return file.read()
    except FileNotFoundError:  # a kernel without namespaces of users
        return "0 0 4294967295"


def spare_user(uid_map: str, gid_map: str, number: int) -> int | None:
    """Choose the first of two ids, of users and of groups, that own nothing and run nothing else.

    Args:
        uid_map: of the namespace, as /proc shows it; a container's may be small.
        gid_map: the same of groups.
        number: of the supervisor, such that two of them have different ids.

    Returns:
        The id; None where too few are mapped.

    >>> spare_user("0 0 4294967295", "0 0 4294967295", 7), spare_user("0 1000 1", "0 1000 1", 7)
    (2000000014, None)
    """
    kinds = [[tuple(map(int, line.split())) for line in text.splitlines()]
             for text in (uid_map, gid_map)]  # fmt: skip
    shared = [(max(one[0], other[0]), min(one[0] + one[2], other[0] + other[2]))
              for one in kinds[0] for other in kinds[1]]  # fmt: skip
    start, end = max(shared, key=lambda one: one[1] - one[0], default=(0, 0))
    if start <= _FIRST_USER and end > _FIRST_USER + 2 * number + 1:
        return _FIRST_USER + 2 * number
    # The upper half of what there is, below the last ids, which are the kernel's nobodies.
    half = (start + end) // 2
    pairs = (end - _LAST_USERS - half) // 2
    return half + 2 * (number % pairs) if pairs > 0 else None


class Confinement:
    """What keeps programs in, as far as this machine has it; it is entered by its maker at once.

    Args:
        limits: time_s (of the processor), memory_mb, files_mb, output_kb, processes.
        wanted: namespaces that are tried; those that are there are ``found``.
        is_filtered: whether system calls are refused, where this architecture is known.
    """

    def __init__(
        self, limits: Mapping[str, int], wanted: Sequence[str], *, is_filtered: bool
    ) -> None:
        self.limits = limits
        first = (
            spare_user(_map_of("uid"), _map_of("gid"), os.getpid()) if os.getuid() == 0 else None
        )
        self.has_users = first is not None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.nowhere = os.open(os.devnull, os.O_RDWR)  # there will be no other way to it
        os.chdir("/")
        self.found = self._enter(wanted)
        # The tests' user, and the program's; of one's own user namespace there is only one.
        self.users = (os.getuid(), os.getuid()) if first is None else (first, first + 1)
        self.is_filtered = is_filtered and platform.machine() in _REFUSED

    @property
    def facts(self) -> dict[str, object]:
        """What was found, for whoever decides whether it is enough."""
        return {
            "namespaces": self.found,
            "user": "one of its own" if self.has_users else "ours",
            "refused_calls": self.is_filtered,
        }

    def close_all_but(self, *kept: int) -> None:
        """Close every descriptor but these; what is printed or read goes nowhere."""
        for standard in (0, 1, 2):
            os.dup2(self.nowhere, standard)
        start = 3
        for descriptor in sorted(kept):
            os.closerange(start, descriptor)
            start = descriptor + 1
        os.closerange(start, 4096)

    def die_with_parent(self) -> None:
        """Have the kernel kill this process when its parent ends."""
        self._call(self._libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))

    def prepare_program(self) -> None:
        """Make a program's namespaces, in its parent: the next child is the first one in them."""
        self._call(self._libc.prctl(_COLLECTS_ORPHANS, 1, 0, 0, 0))
        own = [name for name in self.found if name in (*_OF_EACH_PROGRAM, "mount")]
        if own:
            self._unshare(own)

    def enter_program(self) -> None:
        """Confine the program's process."""
        has_folder = "mount" in self.found
        if has_folder:
            self._own_folder()
        self._drop(self.users[1])
        # Where users are shared, four processes of ours count too.
        processes = self.limits["processes"] + (0 if self.has_users else 4)
        self._limit(processes, self.limits["files_mb"] if has_folder else 0)

    def enter_tests(self) -> None:
        """Confine the tests' process, which starts nothing and writes nothing."""
        self._drop(self.users[0])
        self._limit(1, 0)

    def clear_user(self) -> None:
        """Kill all that runs under the program's user, in its parent, and wait until it is gone.

        A pid namespace takes its processes along by itself.
        """
        if not self.has_users or "pid" in self.found:
            return
        for _ in range(_CLEARINGS):
            child = os.fork()
            if child == 0:
                os.setresuid(self.users[1], self.users[1], self.users[1])
                with contextlib.suppress(OSError):
                    os.kill(-1, signal.SIGKILL)
                os._exit(0)
            os.waitpid(child, 0)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:  # all that it left, which came to us, has been collected
                return
            time.sleep(_CLEARING_S)

    def _enter(self, wanted: Sequence[str]) -> list[str]:
        """Try one namespace after the other; some are made anew for each program."""
        found = []
        for name in wanted:
            if name == "user" and self.has_users:
                continue
            with contextlib.suppress(OSError):
                if name in _OF_EACH_PROGRAM:
                    self._try_in_child(name)
                else:
                    self._make(name)
                found.append(name)
        return found

    def _make(self, name: str) -> None:
        user, group = os.getuid(), os.getgid()
        self._unshare([name])
        if name == "user":
            for file, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{file}", "w") as opened:
                    opened.write(text)
        if name == "mount":
            self._make_read_only()

    def _try_in_child(self, name: str) -> None:
        """Make a namespace in a process that ends at once.

        Raises:
            OSError: there is none.
        """
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                self._unshare([name])
                os._exit(0)
            os._exit(1)
        if os.waitpid(child, 0)[1] != 0:
            raise OSError(f"there is no namespace of the kind {name}")

    def _make_read_only(self) -> None:
        """Show the system's folders and the interpreter's library, none of them to be written.

        Raises:
            OSError: mounts are refused, or there is no place for the library.
        """
        self._mount("none", "/", None, _REC | _PRIVATE)
        place = next((folder for folder in _LIBRARY if os.path.isdir(folder)), "")
        if not place:
            raise OSError(f"none of {', '.join(_LIBRARY)} is there")
        # It may lie in a folder that is nobody else's to read, such as a home.
        library = os.path.dirname(os.__file__)
        held = os.open(library, os.O_PATH | os.O_DIRECTORY)
        empty = os.open(os.devnull, os.O_PATH)  # of this namespace, as what is bound has to be
        for name in os.listdir("/"):
            folder = f"/{name}"
            is_folder = os.path.isdir(folder) and not os.path.islink(folder)
            if is_folder and name not in SHOWN and folder != "/proc":
                self._mount("none", folder, "tmpfs", _PLAIN, "size=64k,nr_inodes=8,mode=755")
            elif os.path.isfile(folder) and not os.path.islink(folder):
                self._mount(f"/proc/self/fd/{empty}", folder, None, _BIND)
        os.mkdir(f"{place}/python")
        self._mount(f"/proc/self/fd/{held}", f"{place}/python", None, _BIND | _REC)
        os.close(held)
        os.close(empty)
        self._mount("none", "/proc", "tmpfs", _PLAIN, "size=4k,nr_inodes=2,mode=755")
        attributes = struct.pack("QQQQ", _RDONLY, 0, 0, 0)
        self._call(
            self._libc.syscall(
                _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes)
            )
        )
        inside = [path.removeprefix(library) for path in sys.path if path.startswith(library)]
        sys.path[:] = [f"{place}/python{path}" for path in inside]
        sys.path_importer_cache.clear()

    def _own_folder(self) -> None:
        """Mount a folder that the program may write in, of a limited size, and go there."""
        options = f"size={self.limits['files_mb']}m,nr_inodes=1024,mode=700,uid={self.users[1]}"
        self._mount("none", _FOLDER, "tmpfs", _PLAIN, options)
        os.chdir(_FOLDER)

    def _drop(self, user: int) -> None:
        """Give up every right, and die with the parent."""
        os.setsid()
        if self.has_users:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        header, nothing = struct.pack("Ii", _CAPABILITIES, 0), bytes(24)
        self._call(self._libc.capset(header, nothing))
        self._call(self._libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        self.die_with_parent()
        if self.is_filtered:
            self._refuse_calls()

    def _refuse_calls(self) -> None:
        """Have the kernel refuse sockets and what reaches into other processes, from here on."""
        architecture, clone, numbers = _REFUSED[platform.machine()]
        numbers = (*numbers, *_REFUSED_EVERYWHERE)
        code = [
            (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_GIVE, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, len(numbers) + 5, 0, _FOREIGN),
        ]  # fmt: skip
        code += [(_EQUAL, len(numbers) - i + 4, 0, one) for i, one in enumerate(numbers)]
        code += [
            (_EQUAL, 5, 0, _CLONE3), (_EQUAL, 0, 2, clone),
            (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_OF, 1, 0, _NEW_NAMESPACES),
            (_GIVE, 0, 0, _ALLOW), (_GIVE, 0, 0, _DENY), (_GIVE, 0, 0, _ABSENT),
        ]  # fmt: skip
        packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
        program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(packed))
        self._call(self._libc.prctl(_SECCOMP, _FILTER, program, 0, 0))

    def _limit(self, processes: int, files_mb: int) -> None:
        """Bound this process and what it starts."""
        seconds = self.limits["time_s"]
        for kind, most in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, self.limits["memory_mb"] * 2**20),
            (resource.RLIMIT_FSIZE, files_mb * 2**20),
            (resource.RLIMIT_NPROC, processes),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            resource.setrlimit(kind, (most, most))

    def _call(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _unshare(self, names: Sequence[str]) -> None:
        flags = 0
        for name in names:
            flags |= NAMESPACES[name]
        self._call(self._libc.unshare(flags))

    def _mount(
        self, source: str, target: str, kind: str | None, flags: int, options: str = ""
    ) -> None:
        named = None if kind is None else kind.encode()
        found = self._libc.mount(
            source.encode(), target.encode(), named, ctypes.c_ulong(flags), options.encode()
        )
        self._call(found)
