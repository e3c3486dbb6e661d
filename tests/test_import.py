"""`import hvplib` on a machine that has only the runtime dependencies."""

from __future__ import annotations

import subprocess
import sys

# Every distribution of the extras that the library or its examples use, by the name that is imported.
EXTRAS = "matplotlib tqdm sklearn transformers pytest jax mkdocs"

PROGRAM = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import hvplib
missing = [name for name in hvplib.__all__ if not hasattr(hvplib, name)]
assert not missing, missing
assert sorted(hvplib.__all__) == sorted(set(hvplib.__all__)), "a name twice"
print(*(name for name in {EXTRAS.split()!r} if name in sys.modules))
"""


def test_import_needs_and_loads_no_extra() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == ""
