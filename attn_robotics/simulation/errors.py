"""What a bad world raises."""


class WorldError(ValueError):
    """A map, start, goal or robot that can't be simulated; the message names the culprit and the fix."""
