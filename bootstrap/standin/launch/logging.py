"""Logging of the launch: to the screen as `[LEVEL] [name]: text`, and to `launch.log`."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TextIO

from launch.missing import module_getattr

__all__ = ['get_logger', 'launch_config']


class LaunchConfig:
    """Where the log goes."""

    @cached_property
    def log_dir(self) -> Path:
        """A folder of this run below ROS_LOG_DIR, ROS_HOME/log or ~/.ros/log, made when first asked for."""
        base = os.environ.get('ROS_LOG_DIR')
        home = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser()
        folder = Path(base).expanduser() if base else home / 'log'
        stamp = time.strftime('%Y-%m-%d-%H-%M-%S') + f'-{time.time_ns() // 1000 % 1_000_000:06d}'
        folder /= f'{stamp}-{socket.gethostname()}-{os.getpid()}'
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def log_file(self) -> TextIO:
        """The open `launch.log`."""
        return (self.log_dir / 'launch.log').open('a', encoding='utf-8', buffering=1)


launch_config = LaunchConfig()


class _Screen(logging.Handler):
    """Writes to whatever `sys.stdout` is at that time, and to the log file."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f'[{record.levelname}] [{record.name}]: {record.getMessage()}'
        write_line(text, sys.stdout)
        print(f'{record.created:.7f} {text}', file=launch_config.log_file)


def write_line(text: str, stream: TextIO) -> None:
    """Write one line at once; a reader that went away must not stop the launch."""
    try:
        stream.write(text + '\n')
        stream.flush()
    except (BrokenPipeError, ValueError):
        pass


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger of that name, `launch` without one."""
    logger = logging.getLogger(name or 'launch')
    if not any(isinstance(handler, _Screen) for handler in logger.handlers):
        logger.addHandler(_Screen())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


__getattr__ = module_getattr(__name__)
