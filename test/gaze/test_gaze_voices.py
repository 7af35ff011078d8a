"""Voices find their faces."""

import math

from attn_robotics.systems.gaze.entities import PERSON, SOUND, Entity
from attn_robotics.systems.gaze.voices import FRESH, MAX_VOICES, NEAR, Voices

ANNA = Entity('anna', PERSON, azimuth=20.0, face_visible=True)


def test_a_voice_without_a_face_is_a_sound_and_one_with_a_face_is_not():
    voices = Voices()
    sound = voices.hear(1.0, 'voice', (-40.0, 0.0, 1.5), 0.9, [ANNA])
    assert (sound.kind, sound.azimuth, sound.speaking) == (SOUND, -40.0, 0.9)
    assert voices.hear(1.0, 'voice', (20.0 + 0.9 * NEAR, 0.0, 1.5), 0.9, [ANNA]) is None
    hidden = Entity('bob', PERSON, azimuth=-40.0)
    assert voices.hear(1.0, 'voice', (-40.0, 0.0, 1.5), 0.9, [hidden]) is not None


def test_only_the_person_nearest_to_the_voice_speaks_and_not_for_long():
    voices = Voices()
    voices.hear(1.0, 'voice', (22.0, 0.0, 1.5), 0.8, [])
    people = {'anna': 20.0, 'bob': 27.0}
    assert voices.speaking(1.0 + 0.9 * FRESH, people) == {'anna': 0.8, 'bob': 0.0}
    assert voices.speaking(1.0 + 1.1 * FRESH, people) == {'anna': 0.0, 'bob': 0.0}
    assert voices.speaking(2.0, {}) == {}


def test_a_voice_behind_belongs_to_who_is_behind_on_the_other_side_of_180_degrees():
    voices = Voices()
    voices.hear(1.0, 'voice', (178.0, 0.0, 1.5), 1.0, [])
    assert voices.speaking(1.0, {'anna': -177.0}) == {'anna': 1.0}


def test_what_is_not_a_number_is_no_voice_and_a_flood_of_names_is_bounded():
    voices = Voices()
    assert voices.hear(1.0, 'voice', (math.nan, 0.0, 1.5), 0.9, []) is None
    assert voices.speaking(1.0, {'anna': 0.0}) == {'anna': 0.0}
    for k in range(3 * MAX_VOICES):
        voices.hear(1.0, f'voice{k}', (0.0, 0.0, 1.5), 7.0, [])
    assert len(voices._heard) == MAX_VOICES
    assert voices.speaking(1.0, {'anna': 0.0}) == {'anna': 1.0}
