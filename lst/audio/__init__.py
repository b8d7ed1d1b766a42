"""Decoding, resampling, segmentation and corpus readers.

Nothing heavy loads here: soundfile, torchaudio and pyarrow are imported when a recording is opened.
"""

from lst.audio.decode import EXTENSIONS, AudioInfo, probe, read_audio, stream_audio
from lst.audio.errors import AudioError
from lst.audio.rows import open_row_audio, row_audio_path

__all__ = [
    "EXTENSIONS",
    "AudioError",
    "AudioInfo",
    "open_row_audio",
    "probe",
    "read_audio",
    "row_audio_path",
    "stream_audio",
]
