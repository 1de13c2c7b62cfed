"""Machines of their own and the lines between them: network namespaces, and packets held back.

`ip` makes the namespaces. Delay, rate, loss and cuts are made here, by passing the packets of two
TUN devices on: the kernel's own netem is missing from many small kernels, and this one draws what
it loses from a seed.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

_TUN = Path("/dev/net/tun")
_SET_DEVICE, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_LARGEST_PACKET = 65_536


def why_not() -> str:
    """Why there can be no such machines here, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` of iproute2"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    name = f"wr{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.decode().strip()}"
    _ip("netns", "del", name)
    return ""


class Line:
    """One line between two namespaces; packets go both ways with the same delay and rate."""

    def __init__(self, *, bits: float, seconds: float, loss: float, buffer: int, seed: int) -> None:
        self._rate = bits / 8
        self._seconds = seconds
        self._loss = loss
        self._buffer = buffer
        self._random = random.Random(seed)
        self._ends = (_new_tun(2 * seed), _new_tun(2 * seed + 1))
        self._free = [0.0, 0.0]
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._end = threading.Event()
        self.cut = False
        self.passed = self.lost = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="line")

    @property
    def devices(self) -> tuple[str, str]:
        """Names of the devices at its two ends."""
        return self._ends[0][1], self._ends[1][1]

    def start(self) -> None:
        """Pass packets on from now on."""
        self._thread.start()

    def close(self) -> None:
        """Take it down."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        for file, _ in self._ends:
            os.close(file)

    def _run(self) -> None:
        files = [file for file, _ in self._ends]
        while not self._end.is_set():
            now = time.monotonic()
            wait = min(0.1, max(0.0, self._waiting[0][0] - now)) if self._waiting else 0.1
            for file in select.select(files, [], [], wait)[0]:
                with suppress(BlockingIOError):
                    self._take(files.index(file), os.read(file, _LARGEST_PACKET))
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                _, _, end, packet = heapq.heappop(self._waiting)
                # A device that is not up, or full, has lost it.
                with suppress(OSError):
                    os.write(files[1 - end], packet)

    def _take(self, end: int, packet: bytes) -> None:
        now = time.monotonic()
        free = max(now, self._free[end])
        full = (free - now) * self._rate > self._buffer
        if self.cut or full or self._random.random() < self._loss:
            self.lost += 1
            return
        self.passed += 1
        self._free[end] = free + len(packet) / self._rate
        self._number += 1
        due = self._free[end] + self._seconds
        heapq.heappush(self._waiting, (due, self._number, end, packet))


class Machines:
    """A namespace for a server, one for each site, and a line from each site to the server."""

    def __init__(self, sites: int, *, bits: float, seconds: float, loss: float) -> None:
        """Make them.

        Args:
            sites: how many.
            bits: a second, each way.
            seconds: that a packet takes, each way.
            loss: share of packets that get lost, each way.
        """
        mark = f"wr{os.getpid() % 100_000}"
        self.server = f"{mark}-0"
        self.sites = [f"{mark}-{number}" for number in range(1, sites + 1)]
        self.address = "10.77.0.1"
        self.lines: list[Line] = []
        self._made: list[str] = []
        self._settings = {"bits": bits, "seconds": seconds, "loss": loss, "buffer": 64_000}

    def __enter__(self) -> Self:
        try:
            for name in (self.server, *self.sites):
                _ip("netns", "add", name)
                self._made.append(name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self.server, "addr", "add", f"{self.address}/32", "dev", "lo")
            for number, name in enumerate(self.sites, start=1):
                self._connect(name, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            line.close()
        for name in self._made:
            _ip("netns", "del", name)

    def _connect(self, name: str, number: int) -> None:
        line = Line(seed=number, **self._settings)  # type: ignore[arg-type]
        self.lines.append(line)
        for device, space, at in zip(line.devices, (self.server, name), (1, 2), strict=True):
            _ip("link", "set", device, "netns", space)
            there = ("-n", space)
            _ip(*there, "addr", "add", f"10.77.{number}.{at}/30", "dev", device)
            _ip(*there, "link", "set", device, "up")
        _ip("-n", name, "route", "add", "default", "dev", line.devices[1])
        line.start()

    @contextmanager
    def all_cut(self) -> Iterator[None]:
        """Nothing passes within."""
        for line in self.lines:
            line.cut = True
        try:
            yield
        finally:
            for line in self.lines:
                line.cut = False


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs there; the process keeps its id."""
    return ("ip", "netns", "exec", namespace)


def _new_tun(number: int) -> tuple[int, str]:
    name = f"wr{os.getpid() % 100_000}t{number}".encode()
    file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    answer = fcntl.ioctl(file, _SET_DEVICE, struct.pack("16sH22x", name, _TUN_WITHOUT_HEADER))
    return file, answer[:16].rstrip(b"\0").decode()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.decode()}"
