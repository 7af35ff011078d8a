"""Helpers that launch files import."""

from launch.missing import module_getattr
from launch.substitution import normalize_to_list_of_substitutions, perform_substitutions

__all__ = ['normalize_to_list_of_substitutions', 'perform_substitutions']

__getattr__ = module_getattr(__name__)
