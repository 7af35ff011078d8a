"""Commands to a robot, drawn from a small grammar: the sentences of the synthetic speech.

Every tenth sentence is held out by its checksum: training never sees it, though it sees the words.
"""

from __future__ import annotations

import zlib

import numpy as np

NUMBERS = ('one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
ANGLES = ('ten', 'fifteen', 'thirty', 'forty five', 'sixty', 'ninety', 'one hundred eighty')
PLACES = ('kitchen', 'office', 'hallway', 'garage', 'lab', 'charging station', 'door', 'window', 'table', 'shelf')
COLOURS = ('red', 'green', 'blue', 'yellow', 'black', 'white')
THINGS = ('box', 'bottle', 'cup', 'book', 'tool', 'ball', 'bag', 'key')
WAYS = ('left', 'right')
MOVES = ('forward', 'backward')
SLOTS = {
    'number': NUMBERS, 'angle': ANGLES, 'place': PLACES, 'colour': COLOURS, 'thing': THINGS, 'way': WAYS, 'move': MOVES,
}  # fmt: skip
COMMANDS = (
    'go to the {place}',
    'come back to the {place}',
    'drive to the {place} and wait',
    'bring the {colour} {thing} to the {place}',
    'bring me the {colour} {thing}',
    'pick up the {colour} {thing}',
    'put the {thing} on the {place}',
    'put down the {thing}',
    'turn {way} {angle} degrees',
    'turn {way}',
    'move {move} {number} meters',
    'look at the {thing}',
    'look {way}',
    'where is the {colour} {thing}',
    'what do you see on the {place}',
    'open the {place} door',
    'close the {place} door',
    'open the gripper',
    'close the gripper',
    'raise your {way} arm',
    'lower your {way} arm',
    'follow me',
    'stop now',
    'wait here',
    'take a picture',
    'start mapping',
    'stop mapping',
    'dock and charge',
    'speak louder',
    'be quiet',
    "what's your battery level",
)
BEFORE = ('', '', '', '', 'please ', 'robot ', 'robot {number} ', 'hey robot ')
AFTER = ('', '', '', '', '', ' please', ' slowly', ' quickly')


def is_held_out(sentence: str) -> bool:
    """Whether training leaves a sentence out."""
    return zlib.crc32(sentence.encode()) % 10 == 0


def draw(rng: np.random.Generator, *, held_out: bool) -> str:
    """A sentence of the training set, or of the held-out one."""
    while True:
        parts = (BEFORE, COMMANDS, AFTER)
        text = ''.join(part[rng.integers(len(part))] for part in parts)
        for slot, values in SLOTS.items():
            text = text.replace('{' + slot + '}', values[rng.integers(len(values))])
        if is_held_out(text) == held_out:
            return text


def words() -> list[str]:
    """Every word of the grammar, sorted."""
    text = ' '.join((*COMMANDS, *BEFORE, *AFTER, *(value for values in SLOTS.values() for value in values)))
    return sorted({word for word in text.split() if not word.startswith('{')})
