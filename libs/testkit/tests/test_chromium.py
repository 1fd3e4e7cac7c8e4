"""The ``chromium_path`` fixture."""

import subprocess
from pathlib import Path


def test_chromium_runs(chromium_path: Path) -> None:
    ran = subprocess.run([chromium_path, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert "Chrom" in ran.stdout
