"""Reading weights: checked against their sha256, from the very bytes that were hashed, never a pickle."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attn_robotics.runtime.errors import EngineError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

CHUNK = 1 << 22
# torch.save writes a zip archive around a pickle; older ones and plain pickles start with the protocol opcode.
_PICKLES = (b'PK\x03\x04', b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05')


def read_verified(path: Path, sha256: str, progress: Callable[[int, int], None] | None = None) -> bytes:
    """Read a weights file and compare its checksum.

    Args:
        path: the file.
        sha256: what the catalogue says, 64 lower-case hexadecimal digits.
        progress: called with bytes read and bytes in all.

    Raises:
        EngineError: `bad_weights`: missing, unreadable, a pickle, or another checksum.
    """
    digest = hashlib.sha256()
    content = io.BytesIO()
    try:
        with path.open('rb') as file:
            if file.read(4).startswith(_PICKLES):
                raise EngineError(
                    'bad_weights', f'{path} is a pickle, which may run code when read; convert it to safetensors'
                )
            total = file.seek(0, io.SEEK_END)
            file.seek(0)
            while chunk := file.read(CHUNK):
                content.write(chunk)
                digest.update(chunk)
                if progress:
                    progress(content.tell(), max(total, content.tell()))
    except OSError as error:
        raise EngineError('bad_weights', f'can not read the weights {path}: {error.strerror}') from error
    if digest.hexdigest() != sha256:
        raise EngineError(
            'bad_weights',
            f'{path} has sha256 {digest.hexdigest()[:12]}..., the catalogue says {sha256[:12]}...; '
            'the file is damaged, half-written or of another version: fetch it again',
        )
    return content.getvalue()


def load_into(module: nn.Module, content: bytes, path: Path) -> None:
    """Copy safetensors into a module, every name and shape exactly.

    Args:
        module: takes the values in its own dtype, on its own device.
        content: the file's bytes.
        path: for messages.

    Raises:
        EngineError: `bad_weights`: not safetensors, cut short, or not of this module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise EngineError('bad_weights', f'{path} is not a whole safetensors file: {one_line(error, 150)}') from error
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise EngineError('bad_weights', f'{path} does not fit the system: {one_line(error, 250)}') from error
