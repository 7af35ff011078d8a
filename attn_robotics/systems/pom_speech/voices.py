"""Synthetic speakers: eSpeak NG's library where it is installed, for MAKING data; nothing at run time needs it.

It comes as `apt-get install espeak-ng` or `pip install espeakng-loader`. `tones.py` needs neither.
"""

from __future__ import annotations

import ctypes
from ctypes.util import find_library
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE

ACCENTS = ('gmw/en', 'gmw/en-US', 'gmw/en-GB-x-rp', 'gmw/en-GB-x-gbclan', 'gmw/en-GB-x-gbcwmd', 'gmw/en-029')
HELD_OUT_ACCENT = 'gmw/en-GB-scotland'
VARIANTS = (
    '', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'f1', 'f2', 'f3', 'f4', 'Alex', 'Alicia', 'Andrea', 'Denis', 'Gene',
    'Hugo', 'Jacky', 'Lee', 'Marco', 'Mario', 'Michael', 'Mike', 'Nguyen', 'adam', 'anika', 'antonio', 'aunty', 'boris',
    'caleb', 'david', 'ed', 'edward', 'grandma', 'grandpa', 'iven', 'john', 'klatt', 'klatt2', 'linda', 'max', 'michel',
    'pablo', 'paul', 'quincy', 'rob', 'robert', 'sandro', 'shelby', 'travis', 'zac',
)  # fmt: skip
HELD_OUT_VARIANTS = ('m8', 'f5', 'Andy', 'Annie', 'belinda', 'benjamin', 'klatt3', 'miguel', 'steph', 'victor')
_SYNCHRONOUS, _RATE, _PITCH, _RANGE, _UTF8 = 2, 1, 3, 4, 1


@dataclass(frozen=True)
class Speaker:
    """One way to speak.

    Attributes:
        voice: eSpeak's name of accent and variant, such as `gmw/en-US+f2`.
        rate: [words a minute].
        pitch: 0 to 99.
        pitch_range: 0 (monotonous) to 99.
    """

    voice: str
    rate: int
    pitch: int
    pitch_range: int


def draw_speaker(rng: np.random.Generator, *, held_out: bool, accents: int = 0, variants: int = 0) -> Speaker:
    """A speaker of the training set, or one whose voice training never hears.

    Args:
        rng: of the speaker.
        held_out: one of those that training leaves out.
        accents, variants: use the first so many of the training set's alone; 0 uses all.
    """
    known = (*ACCENTS, HELD_OUT_ACCENT) if held_out else ACCENTS[: accents or None]
    accent = known[rng.integers(len(known))]
    variants_used = HELD_OUT_VARIANTS if held_out else VARIANTS[: variants or None]
    variant = variants_used[rng.integers(len(variants_used))]
    return Speaker(
        f'{accent}+{variant}' if variant else accent,
        int(rng.integers(90, 166)),
        int(rng.integers(25, 76)),
        int(rng.integers(25, 76)),
    )


class Espeak:
    """The library, loaded once a process.

    Raises:
        RuntimeError: it is not installed, with the command that helps.
    """

    def __init__(self) -> None:
        library, data = _find()
        self._library = ctypes.CDLL(library)
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise RuntimeError(f'{library} did not start; is its espeak-ng-data folder complete?')
        self._chunks: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, speaker: Speaker) -> NDArray[np.float32]:
        """Speak a sentence: (n,) samples at 16 kHz, peak 1.

        Raises:
            RuntimeError: no such voice, or no sound.
        """
        if self._library.espeak_SetVoiceByName(speaker.voice.encode()):
            raise RuntimeError(f'eSpeak NG has no voice {speaker.voice!r}')
        for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        content = text.encode()
        self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._chunks:
            raise RuntimeError(f'eSpeak NG gave no sound for {text!r} as {speaker.voice!r}')
        sound = np.concatenate(self._chunks).astype(np.float64)
        common = np.gcd(self._rate, SAMPLE_RATE)
        sound = resample_poly(sound, SAMPLE_RATE // common, self._rate // common)
        loud = np.flatnonzero(np.abs(sound) > 1e-3 * np.abs(sound).max(initial=1.0))
        sound = sound[loud[0] : loud[-1] + 1] if len(loud) else sound
        result: NDArray[np.float32] = (sound / max(1.0, np.abs(sound).max())).astype(np.float32)
        return result


def _find() -> tuple[str, bytes | None]:
    try:
        import espeakng_loader
    except ModuleNotFoundError:
        found = find_library('espeak-ng')
        if found is None:
            raise RuntimeError(
                'eSpeak NG is missing: apt-get install espeak-ng, pip install espeakng-loader, or use --voice tones'
            ) from None
        return found, None
    return espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path()).encode()
