"""The exception tree: every error that a user can cause says what was expected, what was received and what to do.

In: nothing. Out: exceptions. Writes: nothing. The command line prints them without a traceback and exits with status 1.
"""

from __future__ import annotations


class LeukolensError(Exception):
    """An error that the user can mend.

    Args:
        what: one sentence that names the thing that failed (a file, a subject, a setting).
        expected: what would have been right.
        received: what was there instead.
        remedy: what to do now.
    """

    def __init__(self, what: str, *, expected: str, received: str, remedy: str) -> None:
        super().__init__(f"{what}\n  expected: {expected}\n  received: {received}\n  remedy:   {remedy}")
        self.what = what
        self.expected = expected
        self.received = received
        self.remedy = remedy


class SettingsError(LeukolensError):
    """A setting, flag or settings file cannot be used."""


class LayoutError(LeukolensError):
    """A folder is laid out in no way that leukolens knows."""


class ImageError(LeukolensError):
    """One image cannot be used; `reason` is the code under which the flow counts it."""

    def __init__(self, what: str, *, reason: str, expected: str, received: str, remedy: str) -> None:
        super().__init__(what, expected=expected, received=received, remedy=remedy)
        self.reason = reason


class ManifestError(LeukolensError):
    """A manifest holds no usable data, or an image was set aside under `--strict`."""


class SplitError(LeukolensError):
    """A split cannot be made from this manifest."""


class LeakError(SplitError):
    """A subject group or a duplicated cell stands on two sides of a split."""


class WeightsError(LeukolensError):
    """Pretrained weights are missing, unreachable or not what their record says."""


class FetchError(LeukolensError):
    """A data set cannot be downloaded, or what came is not what was published."""


class RunError(LeukolensError):
    """A run directory is incomplete or belongs to other data or settings."""


class ExportError(LeukolensError):
    """An exported network does not answer as the one it was made from."""


class RequestError(LeukolensError):
    """A request to the server is not answered.

    `status` is the status of the HTTP response; `retry_after` the seconds after which the same request may succeed, None where
    it never will.
    """

    def __init__(
        self, what: str, *, status: int, expected: str, received: str, remedy: str, retry_after: int | None = None
    ) -> None:
        super().__init__(what, expected=expected, received=received, remedy=remedy)
        self.status = status
        self.retry_after = retry_after


class ArtifactError(LeukolensError):
    """A file that one room hands to the next is missing, damaged or lacks columns."""
