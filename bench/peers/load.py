"""How much of the machine others use while we measure, from /proc (Linux)."""

import os
import resource
import time

TICK = os.sysconf("SC_CLK_TCK")


def busy():
    """Seconds that all CPUs together have been at work, or kept from it by the hypervisor."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def used(pid):
    """CPU seconds of a process and of its children that ended."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


class ForeignLoad:
    """Measures from its creation on; ours are this process, its ended children, and the process `pid` if given."""

    def __init__(self, pid=None):
        self.pid = pid
        self.start = time.monotonic(), busy(), self.own()

    def own(self):
        mine = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(r.ru_utime + r.ru_stime for r in mine) + (used(self.pid) if self.pid else 0)

    def fraction(self):
        """CPU time of others as a fraction of one CPU."""
        now = time.monotonic(), busy(), self.own()
        wall, all_busy, own = (b - a for a, b in zip(self.start, now))
        return max(0.0, all_busy - own) / wall
