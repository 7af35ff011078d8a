"""Where configuration lies: in a checkout, or in an installed package's share folder."""

from __future__ import annotations

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent


def config_folders() -> list[Path]:
    """Folders that hold config/, the first existing one wins: checkout, then every ament prefix."""
    prefixes = filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep))
    candidates = [_CHECKOUT, *(Path(prefix, 'share', 'attn_robotics') for prefix in prefixes)]
    return [folder / 'config' for folder in candidates if (folder / 'config').is_dir()]


def find_config(name: str | Path) -> Path:
    """Find a file by path, or by its name below config/ (`worlds/random.yaml`).

    Returns:
        An existing path; when there is none, the name as a path, so that whoever opens it reports what was asked for.
    """
    path = Path(name).expanduser()
    if path.is_absolute() or path.exists():
        return path
    return next((folder / path for folder in config_folders() if (folder / path).exists()), path)
