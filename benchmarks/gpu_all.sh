#!/usr/bin/env bash
# Every measurement of segpress that needs a GPU, in 12 minutes, the most valuable first; then a table of the parts.
#
#   bash benchmarks/gpu_all.sh                              # on a machine with a GPU
#   bash benchmarks/gpu_all.sh --device cpu --tiny          # a dry run of all parts: a few minutes on 2 cores
#   bash benchmarks/gpu_all.sh --parts "gpu training"       # some parts; prepared files are kept between runs
#   bash benchmarks/gpu_all.sh --limit training=300         # seconds that a part may take; may be repeated
#
# Parts: setup           unpacks the kit; writes params files; what the machine has
#        gpu_tests       the tests that need a GPU
#        training_speed  bare torch loop against our training, for the teacher and three losses
#        losses          every loss: a whole step as a multiple of kd's, and the loss alone at stride 4 and 8
#        gpu             every runtime and precision on a student at 512x1024, with the providers of its nodes
#        training        teacher and students on CamVid (rendered frames without the kit), 300 steps each
#
# Results: $OUT (default: build/gpu_all) has a log per part, JSON files, table.txt and parts.tsv. Each file is written as
# soon as its figures are known: if a part or this script is cut off, the earlier results remain. A part first removes
# its results of an earlier run.
#
# No network and no DVC are needed. A machine without the packages needs a kit, the folder --kit (default: .gpu):
#   whl/*.whl             installed into the work folder
#   weights/*.safetensors encoders tf_efficientnet_lite0 and 2
#   camvid.tar            CamVid: camvid/images, camvid/masks, camvid/train.txt, camvid/val.txt
#   lab/dvclive.py        takes the place of the package dvclive where it is missing
#   ort.aa, ort.ab, ...   ONNX Runtime for GPUs, an archive in parts. Provide one part after the other, each in a run
#                         with --parts setup; the work folder collects them (--work, default: build/gpu or build/gpu_tiny).
set -uo pipefail
cd "$(dirname "$0")/.."

order="setup gpu_tests training_speed losses gpu training"
declare -A limit=([setup]=60 [gpu_tests]=130 [training_speed]=150 [losses]=110 [gpu]=140 [training]=130) given=()
device=cuda tiny="" kit=.gpu work="" parts=$order

usage() {
  echo "error: $1; the first lines of benchmarks/gpu_all.sh list the options" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  [ "$1" = --tiny ] || [ $# -ge 2 ] || usage "$1: no value"
  case $1 in
    --tiny) tiny=--tiny ;;
    --device) device=$2 ;;
    --kit) kit=$2 ;;
    --work) work=$2 ;;
    --parts) parts=$2 ;;
    --limit) [ -n "${limit[${2%%=*}]:-}" ] || usage "--limit: got $2; needed: PART=SECONDS"; given[${2%%=*}]=${2#*=} ;;
    *) usage "$1: no such option" ;;
  esac
  [ "$1" = --tiny ] || shift
  shift
done
case $device in cuda | cpu) ;; *) usage "--device: got $device; allowed: cuda, cpu" ;; esac
for name in $parts; do [ -n "${limit[$name]:-}" ] || usage "--parts: no part $name; allowed: $order"; done
for name in $order; do
  [ -z "$tiny" ] || limit[$name]=$((3 * limit[$name]))  # small, but on a few cores
  limit[$name]=${given[$name]-${limit[$name]}}
  case ${limit[$name]} in  # 0 would be no limit
    "" | *[!0-9]* | 0*) usage "--limit: got $name=${limit[$name]}; needed: seconds, 1 or more" ;;
  esac
done
work=${work:-build/gpu${tiny:+_tiny}}

OUT=${OUT:-build/gpu_all}
for folder in "$OUT" "$work"; do
  mkdir -p "$folder" && [ -w "$folder" ] || usage "$folder: cannot be written; set OUT or --work to another folder"
done
OUT=$(cd "$OUT" && pwd) work=$(cd "$work" && pwd)
python=$(command -v python || command -v python3) || usage "python: not found; install Python or activate its environment"
export OUT work kit device tiny python
export PYTHONPATH=$work/site:$work/ort:$PWD:$work/stand_in${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 COLUMNS=160
if [ "$device" = cpu ]; then
  export CUDA_VISIBLE_DEVICES=""
elif ! "$python" -c 'import sys; from pipeline.runtimes import _cuda; sys.exit(_cuda.device() is None)'; then
  usage "--device: got cuda, but this machine has no NVIDIA GPU with a driver; a dry run: --device cpu --tiny"
fi

part_setup() {
  if [ -d "$kit/whl" ] && [ ! -d "$work/site" ]; then
    rm -rf "$work/site.new"
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site.new" "$kit"/whl/*.whl
    mv "$work/site.new" "$work/site"
  fi
  mkdir -p "$work/stand_in" "$work/parts"
  if [ -f "$kit/lab/dvclive.py" ] && ! "$python" -c 'import dvclive' 2>/dev/null; then
    cp "$kit/lab/dvclive.py" "$work/stand_in/"
  fi
  if [ -f "$kit/camvid.tar" ] && [ ! -d "$work/camvid" ]; then
    rm -rf "$work/camvid.new" && mkdir "$work/camvid.new"
    tar xf "$kit/camvid.tar" -C "$work/camvid.new"
    mv "$work/camvid.new/camvid" "$work/camvid"  # complete, also after a run that was cut off
  fi
  if compgen -G "$kit/ort.??" >/dev/null; then cp "$kit"/ort.?? "$work/parts/"; fi
  if [ ! -d "$work/ort" ] && compgen -G "$work/parts/ort.??" >/dev/null; then
    rm -rf "$work/ort.new" && mkdir "$work/ort.new"
    if cat "$work"/parts/ort.?? | tar xJ -C "$work/ort.new" 2>/dev/null; then
      mv "$work/ort.new" "$work/ort"
    else
      echo "ONNX Runtime: parts are missing; present: $(ls "$work/parts" | tr '\n' ' ')"
    fi
  fi
  if command -v nvidia-smi >/dev/null; then nvidia-smi || true; fi
  "$python" -m pipeline.verbs doctor || true
  local weights=()
  if [ -d "$kit/weights" ]; then weights=(--weights "$kit/weights"); fi
  if [ -f "$work/training.yaml" ]; then mv "$work/training.yaml" "$work/before.yaml"; fi
  "$python" benchmarks/gpu_params.py "$work" "${weights[@]}" --device "$device" $tiny
  cmp -s "$work/training.yaml" "$work/before.yaml" || rm -rf "$work/dataset"  # of other frames
}

part_gpu_tests() {
  grep -rlE --include='test_*.py' 'mark\.gpu' tests |
    xargs "$python" -m pytest -vv -m gpu -p no:cacheprovider --continue-on-collection-errors
}

# dataset PARAMS FOLDER: the prepared data set, if it is not there yet
dataset() {
  [ -d "$2" ] || "$python" stages/prepare.py --params "$1" --out "$2"
}

part_training_speed() {
  local few=()
  if [ -z "$tiny" ]; then few=(--count 40 --rounds 2); fi
  rm -f "$OUT/training_speed.json"
  dataset "$work/training.yaml" "$work/dataset"
  "$python" benchmarks/training_speed.py "$work/dataset" --params "$work/training.yaml" --loss teacher none kd kd+cirkd \
    --store decoded --device "$device" $tiny "${few[@]}" --json "$OUT/training_speed.json"
}

part_losses() {
  local common=(--device "$device" $tiny --json "$OUT/losses.json")
  rm -f "$OUT/losses.json"
  if [ "$device" = cuda ]; then
    local half
    half=$(sed -n 's/^ *precision: *\([a-z0-9]*\).*/\1/p' "$work/training.yaml" | head -n 1)
    common+=(--size 368 480 --batch 16 --precision "$half")
  fi
  "$python" benchmarks/losses.py --stride 4 8 "${common[@]}"
  "$python" benchmarks/losses.py --step "${common[@]}" ${tiny:+--losses cirkd}
}

# teacher PARAMS DATASET FOLDER
teacher() {
  "$python" stages/sources.py --params "$1" --out "$3/sources"
  "$python" stages/train_teacher.py --params "$1" --dataset "$2" --curves "$3/curves/teacher" \
    --checkpoints "$3/checkpoints/teacher" --out "$3/teacher"
}

# student PARAMS DATASET FOLDER NAME
student() {
  "$python" stages/distill.py --params "$1" --student "$4" --dataset "$2" --teacher "$3/teacher" \
    --loss "$3/sources/distill/$4.json" --curves "$3/curves/$4" --costs "$3/costs/$4.json" \
    --checkpoints "$3/checkpoints/$4" --out "$3/students/$4"
}

part_gpu() {
  local at=$work/runtimes params=$work/runtimes.yaml few=(--warmup 20 --runs 150 --seconds 0.5 --threads 8)
  if [ -n "$tiny" ]; then few=(--warmup 1 --runs 10 --seconds 0); fi
  rm -rf "$at" "$OUT"/gpu.json "$OUT"/gpu_tensorrt*.json
  dataset "$params" "$at/dataset"
  teacher "$params" "$at/dataset" "$at"
  student "$params" "$at/dataset" "$at" kd
  "$python" stages/export.py --params "$params" --network "$at/students/kd" --dataset "$at/dataset" --out "$at/onnx"
  "$python" stages/calibrate.py --params "$params" --onnx "$at/onnx" --dataset "$at/dataset" --out "$at/calibration"
  "$python" stages/quantize.py --params "$params" --onnx "$at/onnx" --calibration "$at/calibration" \
    --dataset "$at/dataset" --out "$at/int8"
  local measure=("$python" benchmarks/gpu.py "$at/onnx" "$at/int8" "$at/dataset" --device "$device" "${few[@]}")
  "${measure[@]}" --runtimes onnxruntime --json "$OUT/gpu.json"
  for library in tensorrt tensorrt_rtx; do  # their builds take minutes
    if [ "$device" = cuda ] && "$python" -c "import $library" 2>/dev/null; then
      "${measure[@]}" --runtimes onnxruntime "$library" --json "$OUT/gpu_$library.json"
    fi
  done
}

part_training() {
  local at=$work/training params=$work/training.yaml students="kd none cirkd"
  if [ -n "$tiny" ]; then students=kd; fi
  rm -rf "$at" "$OUT"/training_{teacher,kd,none,cirkd}*.json
  dataset "$params" "$work/dataset"
  teacher "$params" "$work/dataset" "$at"
  cp "$at/teacher/meta.json" "$OUT/training_teacher.json"
  for name in $students; do
    student "$params" "$work/dataset" "$at" "$name"
    cp "$at/students/$name/meta.json" "$OUT/training_$name.json"
    cp "$at/costs/$name.json" "$OUT/training_$name.costs.json"
  done
}

export -f part_setup part_gpu_tests part_training_speed part_losses part_gpu part_training dataset teacher student

table() {
  printf '%-15s %8s  %-12s %s\n' part seconds outcome "last line"
  while IFS=$'\t' read -r name seconds outcome last; do
    printf '%-15s %8s  %-12s %s\n' "$name" "$seconds" "$outcome" "$last"
  done <"$OUT/parts.tsv"
}

# run PART, in a process group that `timeout` ends as a whole
run() {
  local name=$1 start=$SECONDS status outcome last
  echo "== $name, at most ${limit[$name]} s"
  # the trap: bash waits for its program to end
  timeout --kill-after=10 "${limit[$name]}" bash -euo pipefail -c "trap 'exit 143' TERM; part_$name" \
    >"$OUT/$name.log" 2>&1 &
  child=$!
  wait "$child"
  status=$?
  if [ -n "$stopped" ]; then
    wait "$child"
    status=124
  fi
  case $status in
    0) outcome=ok ;;
    124 | 137) outcome="cut off" ;;
    *) outcome="failed ($status)" ;;
  esac
  [ "$outcome" = ok ] || failed=1
  last=$(tr '\r\t' '\n ' <"$OUT/$name.log" | grep -vE '^ *$|^interrupted:|^Terminated' | tail -n 1)
  printf '%s\t%s\t%s\t%s\n' "$name" $((SECONDS - start)) "$outcome" "$last" >>"$OUT/parts.tsv"
  table >"$OUT/table.txt"
}

child="" stopped="" failed=0
stop() {
  stopped=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT HUP
: >"$OUT/parts.tsv"
for name in $parts; do
  [ -n "$stopped" ] || run "$name"
done
table
exit "$failed"
