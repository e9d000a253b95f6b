"""How long the commands take that only look, and how much memory: python performance/command_line.py

Each command is a process of its own, run several times in turn with a Python that does nothing, after one run of each
that nobody counts. Times are of the wall clock, so the machine is to be idle.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 9
LIMITS = {
    "--help": (0.4, None), "list": (1.0, 150), "list strategies cars": (None, None), "runs": (1.0, 150),
    "show runs/small": (1.0, 150),
}  # fmt: skip
"""Seconds and MB that a command is to stay below, if any were set."""
SEARCH = (
    "search --space esrn/tiny --benchmark super_resolution_table --strategy random_search --objective psnr_db:max "
    "--objective macs:min --evaluations 20 --out runs/small"
)


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of one process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """Print a line for each command."""
    nasplat = [sys.executable, "-m", "nasplat"]
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    commands |= {f"nasplat {words}": [*nasplat, *words.split()] for words in LIMITS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*nasplat, *SEARCH.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[tuple[float, float]]] = {command: [] for command in commands}
        for round_ in range(ROUNDS + 1):
            for command, words in commands.items():
                figures = measured(words, folder)
                if round_:
                    found[command].append(figures)
    bare = statistics.median(seconds for seconds, _ in found["python -c pass"])
    print(f"{'command':30} {'seconds':>8} {'times bare Python':>18} {'MB':>6}  limits")
    for command, runs in found.items():
        seconds, memory = statistics.median(s for s, _ in runs), max(m for _, m in runs)
        limit_s, limit_mb = LIMITS.get(command.removeprefix("nasplat "), (None, None))
        limits = " ".join([f"{limit_s} s"] * (limit_s is not None) + [f"{limit_mb} MB"] * (limit_mb is not None))
        print(f"{command:30} {seconds:8.3f} {seconds / bare:18.1f} {memory:6.0f}  {limits}")


if __name__ == "__main__":
    main()
