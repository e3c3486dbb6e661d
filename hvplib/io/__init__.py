"""Results in files: `save`, `load`, and `describe` for what a file says of itself."""

from hvplib.io.fingerprint import Fingerprint
from hvplib.io.result_file import ResultFileError, describe, load, save

__all__ = ["Fingerprint", "ResultFileError", "describe", "load", "save"]
