# SPDX-License-Identifier: Apache-2.0
"""
measure.py - run the sides of a row in turn, with what each used and what others used of the machine meanwhile.

A side is a name and a function that does the work once and returns {"value", …}.  Whoever competes is pinned to the same
CPUs: the driver pins itself, and what it starts inherits that.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time

LONG = 60  # seconds of one run of a peer from which two runs are enough
TICK = os.sysconf("SC_CLK_TCK")
workers = []  # Python peers that are running now
launcher = None  # used.c, compiled


class Failed(Exception):
    """A side that cannot go on; the text is for the table."""


def pin(n):
    """This process, and so all it starts, on n CPUs: on cores of their own as long as there are any.  Their numbers."""

    def core(cpu):
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as f:
                return f.read()
        except OSError:
            return str(cpu)

    seen, first, rest = set(), [], []
    for cpu in sorted(os.sched_getaffinity(0)):
        (rest if core(cpu) in seen else first).append(cpu)
        seen.add(core(cpu))
    cpus = (first + rest)[:n]
    if len(cpus) < n:
        sys.exit(f"bench: {n} threads, but {len(cpus)} CPUs")
    os.sched_setaffinity(0, cpus)
    return cpus


def cpu_of(pid):
    """Seconds of CPU that a running process has used."""
    with open(f"/proc/{pid}/stat") as f:
        return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13])) / TICK


def machine():
    """Seconds of CPU used by everybody, and taken by the host, since the machine started."""
    with open("/proc/stat") as f:
        v = [int(x) / TICK for x in f.readline().split()[1:9]]
    return v[0] + v[1] + v[2] + v[5] + v[6] + v[7]


def ours():
    """The part of it that is the driver's and what it started."""
    return sum(resource.getrusage(w).ru_utime + resource.getrusage(w).ru_stime for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) + sum(
        cpu_of(w.process.pid) for w in workers)


def last_line(path):
    with open(path, errors="replace") as f:
        lines = [x.strip() for x in f if x.strip()]
    return lines[-1] if lines else "no message"


def spawn(argv, log, stdin=os.devnull, stdout=os.devnull, env=None):
    """Run a program to its end.  (seconds from exec to exit, peak MiB)"""
    with open(stdin) as i, open(stdout, "w") as o, open(log, "w") as e:
        code = subprocess.run([launcher, log + ".used", *argv], stdin=i, stdout=o, stderr=e, env=env).returncode
    if code:
        raise Failed(f"{os.path.basename(argv[0])}: exit {code}: {last_line(log)}")
    with open(log + ".used") as f:
        used = json.load(f)
    return used["seconds"], used["rss_kib"] / 1024


def compiled(source, into):
    """A program of one C file."""
    exe = os.path.join(into, os.path.basename(source)[:-2])
    p = subprocess.run([os.environ.get("CC", "cc"), "-O2", "-pthread", "-o", exe, source], stderr=subprocess.PIPE, text=True)
    if p.returncode:
        raise Failed(f"{source}: {p.stderr.strip().splitlines()[0]}")
    return exe


class Worker:
    """A Python peer: loads once, then does its work each time it is asked."""

    def __init__(self, argv, log, env=None):
        self.log = log
        with open(log, "w") as e:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=e, env=env, text=True)
        self.rss = 0
        self.name = self.answer()["peer"]
        workers.append(self)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise Failed(last_line(self.log))
        return json.loads(line)

    def once(self, options):
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        if self.process.returncode is None:
            with open(f"/proc/{self.process.pid}/status") as f:  # of a process that has ended nothing is said
                self.rss = next((int(x.split()[1]) / 1024 for x in f if x.startswith("VmHWM")), 0)
            self.process.stdin.close()
            self.process.wait()
        if self in workers:
            workers.remove(self)


class Side:
    """One competitor.  once() -> {"value", and any of seconds, tokens, rss, flops, note}."""

    def __init__(self, name, once, unit="tokens/s", peer=False, group=None, within=None):
        self.name, self.once, self.unit, self.peer = name, once, unit, peer
        self.within = within  # the side whose run was this one's, too
        self.group = group  # of those of one group the best of the first round goes on
        self.runs, self.others, self.failed = [], [], None

    def better(self):
        values = [r["value"] for r in self.runs]
        return -statistics.median(values) if self.unit == "s" else statistics.median(values)

    def run(self):
        busy, mine = machine(), ours()
        try:
            self.runs.append(self.once())
        except Failed as e:
            self.failed = str(e)
            return
        self.others.append(self.within.others[-1] if self.within else round(max(0, machine() - busy - (ours() - mine)), 2))

    def figure(self):
        if self.failed or not self.runs:
            return {"side": self.name, "peer": self.peer, "failed": self.failed or "did not run"}
        last = self.runs[-1]
        f = {"side": self.name, "peer": self.peer, "value": round(statistics.median(r["value"] for r in self.runs), 4), "unit": self.unit,
             "runs": [round(r["value"], 4) for r in self.runs], "others_cpu_s": self.others}
        if "seconds" in last:
            f["seconds"] = [round(r["seconds"], 6) for r in self.runs]
            wall = [r["seconds"] for r in (self.within or self).runs]
            f["busy"] = any(o > 0.08 * s + 0.1 for o, s in zip(self.others, wall))
        if any("rss" in r for r in self.runs):
            f["peak_rss_mib"] = round(max(r.get("rss", 0) for r in self.runs))
        for k in ("tokens", "note", "threads"):
            if k in last:
                f[k] = last[k]
        if last.get("flops"):
            f["gflops"] = round(statistics.median(r["flops"] / r["seconds"] for r in self.runs) * 1e-9, 1)
        return f


def interleave(sides, runs, say):
    """A B A B …: one run of each side in turn, fewer of them where one run of a peer takes long."""
    going = list(sides)
    k = 0
    while going and k < runs:
        for s in going:
            s.run()
            say(f"{s.name}: {s.failed or '%.4g %s' % (s.runs[-1]['value'], s.unit)}")
        going = [s for s in going if not s.failed]
        k += 1
        if k == 1:
            for g in {s.group for s in going if s.group}:
                best = max((s for s in going if s.group == g), key=Side.better)
                going = [s for s in going if s.group != g or s is best]
            if any(s.peer and s.runs[0].get("seconds", 0) > LONG for s in going):
                runs = min(runs, 2)
    return [s.figure() for s in sides]
