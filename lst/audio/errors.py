"""Why a recording or its text cannot be used: short reasons that are counted in manifests."""

from lst.errors import LstError


class AudioError(LstError):
    """A recording that cannot be used. `reason` is the short code under which ingestion counts it.

    Reasons raised here: `audio-missing`, `audio-unreadable`, `audio-empty`, `audio-truncated`, `not-finite`,
    `outside-audio`, `audio-changed`.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.reason, self.hint))


def _rebuild(message: str, reason: str, hint: str) -> AudioError:
    return AudioError(message, reason=reason, hint=hint)
