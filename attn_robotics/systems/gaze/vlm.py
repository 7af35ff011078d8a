"""Target selection by a vision-language model behind an OpenAI-compatible server. Off unless a server is configured.

The 100 Hz loop never waits: the question is asked in a thread of its own, the fallback's answer stands meanwhile, and
an answer counts only if it came within its deadline and the scene's event counter has not moved on.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from attn_robotics.systems.gaze.entities import Scene
from attn_robotics.systems.gaze.selection import IDLE, Choice, Selector

MAX_ANSWER: Final = 65536  # bytes
MAX_HOLD: Final = 5.0  # s
_TASK: Final = (
    'You direct the gaze of a humanoid robot. Given the people, sounds and objects around it, answer with one JSON '
    'object: {"target_id": an id from the list or null, "reason": a few words, '
    '"confidence": 0 to 1, "hold_s": seconds}.'
)


@dataclass(frozen=True)
class VlmAnswer:
    """A checked answer."""

    target_id: str
    reason: str
    confidence: float
    hold_s: float


def parse_answer(text: str, known: frozenset[str]) -> VlmAnswer:
    """Read the model's JSON, also when it is wrapped in prose or a code fence.

    Raises:
        ValueError: no JSON object, unknown target, or numbers out of range.
    """
    start, end = text.find('{'), text.rfind('}')
    if start < 0 or end < start:
        raise ValueError('the answer holds no JSON object')
    data = json.loads(text[start : end + 1])
    target = data.get('target_id')
    target = IDLE if target is None else target
    if target != IDLE and target not in known:
        raise ValueError(f'the answer names {target!r}, which is not in the scene')
    confidence, hold = data.get('confidence', 0.5), data.get('hold_s', 1.0)
    for value in (confidence, hold):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError('confidence and hold_s must be finite numbers')
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(f'confidence must be within 0 to 1, got {confidence}')
    return VlmAnswer(
        str(target), str(data.get('reason', ''))[:200], float(confidence), min(max(float(hold), 0.0), MAX_HOLD)
    )


def describe(scene: Scene) -> str:
    """The scene as compact JSON text for the question."""
    entries = [
        {
            'id': e.id,
            'kind': e.kind,
            'azimuth_deg': round(e.azimuth),
            'elevation_deg': round(e.elevation),
            'distance_m': round(e.distance, 1),
            'speaking': round(e.speaking, 1),
            'looks_at_robot': round(e.looks_at_robot, 1),
            'addressed': round(e.addressed, 1),
            'waving': round(e.gesture, 1),
        }
        for e in scene.entities
    ]
    return json.dumps({'robot_speaks': scene.speaking, 'gaze_is_on': scene.current or None, 'entities': entries})


class VlmSelector:
    """Adapter behind the common contract.

    Args:
        url: base address, http or https, as in `http://localhost:8000/v1`.
        model: name the server knows.
        fallback: answers until, and unless, the server does.
        deadline_s: answers that took longer are not used.
        api_key: sent as bearer token when not empty.
    """

    def __init__(self, url: str, model: str, fallback: Selector, *, deadline_s: float = 0.7, api_key: str = '') -> None:
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise ValueError(f'url must be like http://host:port/v1, got {url!r}')
        if not 0.0 < deadline_s <= 30.0:
            raise ValueError(f'deadline_s must be within 0 to 30, got {deadline_s}')
        self._url = url.rstrip('/') + '/chat/completions'
        self._model, self._fallback, self._deadline, self._key = model, fallback, deadline_s, api_key
        self._lock = threading.Lock()
        self._answer: tuple[int, VlmAnswer] | None = None
        self._fresh_until = -math.inf
        self._asked_event = -1
        self._thread: threading.Thread | None = None
        self._jpeg = b''
        self.counts: dict[str, int] = {'asked': 0, 'used': 0, 'late': 0, 'stale': 0, 'failed': 0}
        self.last_error = ''

    def show(self, jpeg: bytes) -> None:
        """Attach this camera image (JPEG) to the next questions; empty bytes for none."""
        with self._lock:
            self._jpeg = jpeg

    def score(self, scene: Scene) -> Choice:
        """The server's answer if there is a fresh one for this scene, else the fallback's. Never waits."""
        choice = self._fallback.score(scene)
        with self._lock:
            if self._answer is not None:
                event, answer = self._answer
                if event != scene.event:
                    self.counts['stale'] += 1
                    self._answer = None
                elif self._fresh_until == -math.inf:
                    self._fresh_until = scene.now + answer.hold_s
                    self.counts['used'] += 1
            answer_now = self._answer[1] if self._answer is not None and scene.now < self._fresh_until else None
            busy = self._thread is not None and self._thread.is_alive()
            if not busy and scene.event != self._asked_event and scene.entities:
                self._asked_event = scene.event
                self._answer, self._fresh_until = None, -math.inf
                self.counts['asked'] += 1
                known = frozenset(e.id for e in scene.entities)
                arguments = (scene.event, describe(scene), known, self._jpeg)
                self._thread = threading.Thread(target=self._ask, args=arguments, daemon=True, name='gaze-vlm')
                self._thread.start()
        if answer_now is None:
            return choice
        top = max(choice.scores.values(), default=0.0)
        scores = {**choice.scores, answer_now.target_id: top + answer_now.confidence}
        return Choice(answer_now.target_id, scores, f'vlm: {answer_now.reason}')

    def close(self, timeout: float = 1.0) -> None:
        """Wait shortly for a question under way."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _ask(self, event: int, text: str, known: frozenset[str], jpeg: bytes) -> None:
        begun = time.perf_counter()
        try:
            answer = parse_answer(self._post(text, jpeg), known)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            with self._lock:
                self.counts['failed'] += 1
                self.last_error = f'{type(error).__name__}: {error}'
            return
        with self._lock:
            if time.perf_counter() - begun > self._deadline:
                self.counts['late'] += 1
            else:
                self._answer = (event, answer)

    def _post(self, text: str, jpeg: bytes) -> str:
        content: list[Mapping[str, Any]] = [{'type': 'text', 'text': text}]
        if jpeg:
            image = 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()
            content.append({'type': 'image_url', 'image_url': {'url': image}})
        messages = [{'role': 'system', 'content': _TASK}, {'role': 'user', 'content': content}]
        body = {'model': self._model, 'messages': messages, 'max_tokens': 120, 'temperature': 0}
        headers = {'Content-Type': 'application/json'}
        if self._key:
            headers['Authorization'] = f'Bearer {self._key}'
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self._deadline) as reply:
            data = reply.read(MAX_ANSWER + 1)
        if len(data) > MAX_ANSWER:
            raise ValueError(f'answer longer than {MAX_ANSWER} bytes')
        return str(json.loads(data)['choices'][0]['message']['content'])
