"""The base of events."""


class Event:
    """Something that happened, or a wish that it should."""

    name = 'launch.Event'
