#!/bin/bash
# The paper in miniature from end to end, in one command; stopped, the same command goes on.
#
#   bash recipes/paper/all.sh TEXT SPEECH PIPER_VOICE [RECIPE]
#
# TEXT: tinystories.txt.gz and pg_children.txt.gz. SPEECH: folders of recorded speech, each with transcripts.tsv.
# PIPER_VOICE: an .onnx file. RECIPE: all (default), first, table3, … Programs on the PATH: lst, espeak-ng, piper.
set -euo pipefail
text=$1 speech=$2 piper=piper:$3 recipe=${4:-all}
here=$(dirname "$0") corpus=outputs/paper-corpus

voices=()
for name in en-us en-us+f2 en-us+f4 en-us+m1 en-us+m3 en-us+Andrea en-us+Michael en-us+linda en-us+steph en-us+max en-gb en-gb+f3; do
    voices+=(--voice "espeak-ng:$name")
done
python "$here/make_corpus.py" text "$text" "$corpus"
# Piper's voice reads a quarter: it is the vocoder's voice.
python "$here/make_corpus.py" speak "$corpus" --hours 26 "${voices[@]}" \
    --voice "$piper" --voice "$piper" --voice "$piper" --voice "$piper" \
    --unmet-voice espeak-ng:en-us+m7 --unmet-voice espeak-ng:en-us+Annie
python "$here/make_corpus.py" recordings "$corpus" "$speech"/*/

python "$here/make_benchmarks.py" "$corpus"
for name in topic-storycloze storycloze spoken-word grammar; do
    lst make-benchmark "$corpus/benchmarks/$name/items.jsonl" --out "$corpus/benchmarks/$name-spoken" --rotate \
        --voice espeak-ng:en-us --voice espeak-ng:en-us+f2 --voice espeak-ng:en-gb --voice "$piper"
done

# As units, in place of those that came with lst.
shipped=$here/../../data_manifests/paper
lst run "$here/speech.yaml"
for name in topic-storycloze storycloze spoken-word grammar align; do
    rm -rf "${shipped:?}/${name/#align/aligned}"
    cp -r "outputs/paper-speech/$name" "$shipped/${name/#align/aligned}"
done

lst run "$here/$recipe.yaml"
python "$here/results.py" outputs/paper docs
