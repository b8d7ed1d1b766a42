from pathlib import Path

import numpy as np
import pytest
import soundfile

from lst.data.interleaving import DocumentMaker, Utterance
from lst.data.patching import PatchingConfig
from lst.errors import LstError, UsageError
from lst.generate.decoding import generate
from lst.generate.layout import static_example
from lst.generate.recognition import PAD_S, TRANSCRIBE, recognition_prompt, transcribe
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import continue_prompt, read_prompt, synthesize
from lst.generate.voice import open_vocoder, speak, write_sound
from tests.evaluate.tiny import TOKENIZER, make_model, write_tone
from tests.generate.conftest import Beeper

BRIEF = GenerateConfig(max_tokens=12, min_tokens=3)


def utterance(session: Session) -> Utterance:
    text = "the cat ran over the house"
    tokens, spans = session.text.encode_words(text.split())
    frames = np.arange(len(spans) + 1, dtype=np.int32) * 7 + 2
    return Utterance(
        id="u",
        units=np.arange(50).astype(np.uint16),
        starts=frames[:-1],
        ends=frames[:-1] + 5,
        tokens=np.array(tokens, dtype=np.int32),
        token_starts=np.array([start for start, _ in spans], dtype=np.int32),
        token_ends=np.array([end for _, end in spans], dtype=np.int32),
    )


def test_prompts_are_laid_out_as_in_fine_tuning(asr: Session, tts: Session) -> None:
    row = utterance(asr)
    maker = DocumentMaker(asr.vocabulary, PatchingConfig(mode="static", size=4))
    trained = maker.utterance("asr", row).build()
    prompt = recognition_prompt(asr, row.units, "u")
    assert prompt.tolist() == trained.tokens[: len(prompt)].tolist()
    whole = static_example(trained.tokens, asr.vocabulary, asr.patch_size)
    assert whole.patch_lengths.tolist() == trained.patch_lengths.tolist()
    assert whole.closed.tolist() == trained.closed.tolist()

    trained = maker.utterance("tts", row).build()
    names = tts.vocabulary
    text = tts.encode_text("the cat ran over the house").tolist()
    assert trained.tokens[: len(text) + 2].tolist() == [names.text_marker, *text, names.tts]
    whole = static_example(trained.tokens, names, tts.patch_size)
    assert whole.patch_lengths.tolist() == trained.patch_lengths.tolist()


@pytest.mark.usefixtures("units")
def test_transcribe_equals_generating_from_the_units(asr: Session, tmp_path: Path) -> None:
    for k in range(3):
        write_tone(tmp_path / f"{k}.wav", 0.5 + 0.3 * k, rate=(16_000, 22_050, 44_100)[k])
    paths = [tmp_path / f"{k}.wav" for k in range(3)]
    warnings: list[str] = []
    config = TRANSCRIBE.model_copy(update={"max_tokens": 10})
    results = transcribe(asr, paths, config=config, warn=warnings.append)
    assert not warnings
    assert [result.path for result in results] == paths
    for path, result in zip(paths, results, strict=True):
        from lst.audio import read_audio

        units = asr.unit_tokenizer().encode(read_audio(path))
        (made,) = generate(asr, [recognition_prompt(asr, units, "x")], "text", config)
        assert result.tokens == made.ids("text").tolist()
        assert result.text == asr.text.decode(result.tokens)
        assert result.units == len(units)
        assert not result.error


@pytest.mark.usefixtures("units")
def test_one_bad_recording_does_not_stop_the_others(asr: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "good.wav", 0.5)
    write_tone(tmp_path / "blink.wav", 0.01)
    soundfile.write(tmp_path / "silence.wav", np.zeros(60 * 16_000), 16_000)
    (tmp_path / "noise.wav").write_bytes(b"RIFF nonsense")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    names = ("gone", "good", "blink", "silence", "noise", "nan")
    results = transcribe(asr, [tmp_path / f"{name}.wav" for name in names], config=BRIEF)
    errors = {result.path.stem: result.error for result in results}
    assert [name for name, error in errors.items() if not error] == ["good"]
    assert "no speech" in errors["silence"]
    assert "too short" in errors["blink"]
    for name in ("gone", "noise", "nan", "silence"):
        assert f"{name}.wav" in errors[name]


@pytest.mark.usefixtures("units")
def test_a_long_recording_is_heard_in_pieces_cut_at_its_pauses(asr: Session, tmp_path: Path) -> None:
    rate, rng = 22_050, np.random.default_rng(0)
    config = TRANSCRIBE.model_copy(update={"max_tokens": 12})
    pause = np.zeros(2 * rate)
    spoken = [rng.normal(0, 0.1, int(seconds * rate)) for seconds in (12.0, 15.0, 9.0)]
    soundfile.write(tmp_path / "long.wav", np.concatenate([part for one in spoken for part in (one, pause)]), rate)
    write_tone(tmp_path / "short.wav", 0.5)
    long, short = transcribe(asr, [tmp_path / "long.wav", tmp_path / "short.wav"], config=config, batch_size=2)
    units = 25 * (12.0 + 15.0 + 9.0)
    assert units < long.units <= units + 25 * 6 * PAD_S + 3
    assert long.stopped == "length"
    assert len(long.tokens) == 3 * config.max_tokens
    alone = []
    for index in range(3):
        around = np.zeros(round(PAD_S * rate))
        parts = [around[: 0 if index == 0 else len(around)], spoken[index], around]
        soundfile.write(tmp_path / f"{index}.wav", np.concatenate(parts), rate)
        alone += transcribe(asr, [tmp_path / f"{index}.wav"], config=config)
    assert abs(sum(part.units for part in alone) - long.units) <= 3
    assert short == transcribe(asr, [tmp_path / "short.wav"], config=config)[0]


@pytest.mark.usefixtures("units")
def test_a_minute_without_a_pause_is_heard_too(asr: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "endless.wav", 60)
    (heard,) = transcribe(asr, [tmp_path / "endless.wav"], config=BRIEF)
    assert not heard.error
    assert heard.units == pytest.approx(1500, abs=4)


@pytest.mark.usefixtures("units")
def test_a_model_of_another_task_is_refused_and_one_of_none_warned_of(
    plain: Session, tts: Session, asr: Session, tmp_path: Path
) -> None:
    write_tone(tmp_path / "a.wav", 0.3)
    warnings: list[str] = []
    transcribe(plain, [tmp_path / "a.wav"], config=BRIEF, warn=warnings.append)
    synthesize(plain, "the cat", config=BRIEF, warn=warnings.append)
    for warning, task in zip(warnings, ("asr", "tts"), strict=True):
        assert "only pre-trained" in warning
        assert f"lst finetune {task}" in warning
    assert recognition_prompt(plain, np.arange(3), "x")[-1] == plain.vocabulary.text_marker
    with pytest.raises(LstError, match="fine-tuned to speak, not to recognise speech") as refused:
        transcribe(tts, [tmp_path / "a.wav"], config=BRIEF)
    assert "lst finetune asr" in str(refused.value.hint)
    with pytest.raises(LstError, match="fine-tuned to recognise speech, not to speak"):
        synthesize(asr, "the cat", config=BRIEF)


def test_synthesize(tts: Session, tmp_path: Path) -> None:
    seen: list[int] = []
    config = GenerateConfig(modality="any", max_tokens=20, min_tokens=20)
    made = synthesize(tts, " the cat ran ", config=config, on_token=lambda row, token: seen.append(token))
    assert len(made.units) == len(seen) == 20
    assert made.units.dtype == np.uint16
    assert made.duration_s == 0.8
    assert made.global_steps == 5
    assert made.stopped == "length"
    assert speak(Beeper(), made.units, tmp_path / "sub" / "x.wav") == 0.8  # type: ignore[arg-type]
    samples, rate = soundfile.read(tmp_path / "sub" / "x.wav")
    assert (len(samples), rate) == (20 * 640, 16_000)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.wav"]


def test_nothing_to_say_or_too_much(tts: Session) -> None:
    with pytest.raises(UsageError, match="nothing to say"):
        synthesize(tts, "  \n ")
    with pytest.raises(LstError, match="no room"):
        synthesize(tts, "the cat " * 500)


def test_wavs_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write_sound(tmp_path / "loud.wav", np.array([0.0, 1.7, -1.7], dtype=np.float32), 16_000)
    samples, _ = soundfile.read(tmp_path / "loud.wav")
    assert samples[1] > 0.99
    assert samples[2] < -0.99
    assert write_sound(tmp_path / "empty.wav", np.empty(0, dtype=np.float32), 16_000) == 0


@pytest.mark.parametrize("modality", ["speech", "text", "any"])
def test_continue_in_every_direction(plain: Session, modality: str) -> None:
    config = BRIEF.model_copy(update={"modality": modality})
    spoken = continue_prompt(plain, np.arange(9), config=config)
    written = continue_prompt(plain, "the cat ran", config=config)
    assert spoken.prompt_modality == "speech"
    assert written.prompt_text == "the cat ran"
    for made in (spoken, written):
        kinds = {span["modality"] for span in made.spans}
        assert kinds <= ({"speech", "text"} if modality == "any" else {modality})
        assert made.text == "".join(span.get("text", "") for span in made.spans) or modality == "any"
        assert made.units.tolist() == [unit for span in made.spans for unit in span.get("units", [])]
        assert made.dropped == 0


def test_a_long_prompt_keeps_its_end(tmp_path: Path) -> None:
    session = open_session(make_model(tmp_path / "m", context=40).path)
    units = np.arange(300) % 501
    long = continue_prompt(session, units, config=BRIEF)
    assert long.dropped == (75 - 20) * 4
    kept = continue_prompt(session, units[220:], config=BRIEF)
    assert long.units.tolist() == kept.units.tolist()
    with pytest.raises(UsageError, match="empty"):
        continue_prompt(session, "  ")


@pytest.mark.usefixtures("units")
def test_prompts_from_the_command_line(plain: Session, tmp_path: Path) -> None:
    assert read_prompt(plain, "The wave. file") == "The wave. file"
    write_tone(tmp_path / "a.WAV", 0.4)
    assert len(read_prompt(plain, str(tmp_path / "a.WAV"))) == 10
    with pytest.raises(LstError, match=r"gone\.wav"):
        read_prompt(plain, str(tmp_path / "gone.wav"))


def test_a_tokenizer_that_is_not_here_or_not_the_models(plain: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import lst.units

    with pytest.raises(LstError, match=r"tttttttttttt\) is not on this machine.*--tokenizer"):
        plain.unit_tokenizer()
    monkeypatch.setattr(lst.units, "tokenizer_fingerprint", lambda name: "e" * 64)
    with pytest.raises(LstError, match=r"The tokenizer mine has units.*eeeeeeeeeeee.*tttttttttttt"):
        plain.unit_tokenizer("mine")


def test_the_vocoder_is_the_one_made_for_the_units(plain: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import lst.vocoder
    from lst.vocoder import loading

    asked: list[tuple[str, str | None]] = []

    def load(name: str, *, tokenizer: str | None = None, told_by: object = None) -> Beeper:
        asked.append((name, tokenizer))
        return Beeper()

    monkeypatch.setattr(lst.vocoder, "load_vocoder", load)
    monkeypatch.setattr(loading, "find_vocoder", lambda tokenizer, fitted: Path("matching"))
    open_vocoder(plain)
    open_vocoder(plain, "mine")
    assert asked == [("matching", TOKENIZER), ("mine", TOKENIZER)]
    monkeypatch.setattr(loading, "find_vocoder", lambda tokenizer, fitted: None)
    with pytest.raises(LstError, match=r"No vocoder.*tttttttttttt.*lst train-vocoder"):
        open_vocoder(plain)
