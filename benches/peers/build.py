"""The binary to measure, where none was given."""

import os
import subprocess


def build(root):
    """Builds it as it is released; its path."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "kura"], cwd=root, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target")), "release", "kura")
