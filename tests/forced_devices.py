"""Scripts on more devices than the machine has: XLA's CPU is told to be several."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def forced(devices: int) -> dict[str, str]:
    """Return the environment of a process whose CPU is so many devices."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
    }


def found_on_eight_devices(script: Path) -> dict:
    """Run a script where the CPU is eight devices; return the JSON that it prints."""
    process = subprocess.run([sys.executable, str(script)], env=forced(8), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)
