#!/usr/bin/env bash
# Compares every policy on every shipped trace; writes out/NAME.html and out/NAME.json. About ten minutes on
# two cores. Small public traces are superposed (--scale) until they make a fleet.
set -euo pipefail
cd "$(dirname "$0")/.."
forethaw=.venv/bin/forethaw
run() {
    local name=$1
    shift
    "$forethaw" simulate "$@" --compare all --report "out/$name.html" --json "out/$name.json" --csv "out/$name.csv"
}
run azure-code azure-code --scale 100
run azure-conv azure-conv --scale 40
run mooncake mooncake --scale 15
run m-large servegen/m-large --service llama-3.1-70b-fp8-h100-tp2 --start 32400 --duration 3600
run m-mid servegen/m-mid --start 32400 --duration 3600
run m-mid-bursts servegen/m-mid --start 20400 --duration 2400
run m-small servegen/m-small --start 32400 --duration 3600
run deepseek-r1 servegen/deepseek-r1 --service qwen-32b-h100-tp2 --scale 4 --start 32400 --duration 3600
run mm-image servegen/mm-image --service qwen2.5-vl-7b-h100 --scale 20 --start 32400 --duration 3600
run worldcup98 worldcup98 --start 3927600 --duration 10800
