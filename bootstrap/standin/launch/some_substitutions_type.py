"""The types that may stand where a text is wanted."""

from launch.substitution import SomeSubstitutionsType, SomeSubstitutionsType_types_tuple

__all__ = ['SomeSubstitutionsType', 'SomeSubstitutionsType_types_tuple']
