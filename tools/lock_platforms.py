"""Resolves the images' lock files for both machines; docs/images.md gets what differs.

Only wheels count, as in the images. Fails where a package has none for x86-64.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # For images/.

from images.sbom import installed  # noqa: E402

PAGE = ROOT / "docs" / "images.md"
BEGIN, END = "<!-- platforms: begin -->", "<!-- platforms: end -->"
HEAD = "| image | on x86-64 only | on aarch64 only | no wheel for aarch64 |"
LOCKS = {
    "web": "web",
    "model": "worker",
    "model-cuda": "worker-cuda",
    "model-onnx": "worker-onnx",
    "autoscaler": "autoscaler",
    "loadtest": "loadtest",
}
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11.2", "3.12.14")
"""Of Debian bookworm, and of the Dockerfiles' base image."""
GLIBC = "2_36"
"""That of bookworm."""


def differences(lock: str) -> list[str]:
    """Return the cells that need no network: what a lock file installs on one machine alone."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    intel, arm = (
        {each for python in PYTHONS for each in installed(text, machine, python)}
        for machine in MACHINES
    )
    return [_listed(intel - arm), _listed(arm - intel)]


def _listed(packages: set[tuple[str, str]]) -> str:
    return ", ".join(f"`{name}` {version}" for name, version in sorted(packages)) or "-"


def without_wheel(place: tuple[str, str, str]) -> set[tuple[str, str]]:
    """Return packages of (lock, machine, Python) that have no wheel for it, as far as uv says."""
    lock, machine, python = place
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", python]
    command += ["--python-platform", f"{machine}-manylinux_{GLIBC}", f"locks/{lock}.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = set(re.findall(r"([\w.-]+)==(\S+) has no (?:usable )?wheels", done.stderr))
    if done.returncode and not found:
        raise SystemExit(f"locks/{lock}.txt, {machine}, Python {python}: {done.stderr}")
    return found


def main() -> None:
    rows = [HEAD, "| --- | --- | --- | --- |"]
    places = [(*each, python) for each in product(LOCKS.values(), MACHINES) for python in PYTHONS]
    with ThreadPoolExecutor(4) as pool:
        absent = dict(zip(places, pool.map(without_wheel, places), strict=True))
    for image, lock in LOCKS.items():
        on = {m: set().union(*(absent[lock, m, python] for python in PYTHONS)) for m in MACHINES}
        if on["x86_64"]:
            raise SystemExit(f"locks/{lock}.txt: no wheel for x86-64: {_listed(on['x86_64'])}")
        rows.append("| " + " | ".join([image, *differences(lock), _listed(on["aarch64"])]) + " |")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, *rows, END + after]))


if __name__ == "__main__":
    main()
